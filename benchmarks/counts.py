"""What a computation costs, counted operator by operator, on any device and on torch's meta device, where nothing is computed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

FREE = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


class Counts(TorchDispatchMode):
    """Counts while it is entered. kernels: operators that are no views. moved: bytes that these read and write. flops: of
    convolutions, products and attention. peak: bytes of tensors made inside that were alive at once.
    on_host: operators that made something on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.on_host = self.moved = self.flops = self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        if func.is_view:
            return out
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self._live([tensor for tensor in made if not any(tensor is old for old in given)])
        if func._overloadpacket in flop_registry:
            sizes = [given for given in args if not isinstance(given, torch.dtype)]
            self.flops += flop_registry[func._overloadpacket](*sizes, **kwargs or {}, out_val=out)
        if made and func._overloadpacket.__name__ not in FREE:
            self.kernels += 1
            self.on_host += any(tensor.device.type == "cpu" for tensor in made)
            read = {id(tensor): tensor for tensor in given}.values()
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in (*read, *made))
        return out

    def _live(self, made: list[Tensor]) -> None:
        """Note new tensors, and which are still there."""
        if made:
            storages = [tensor.untyped_storage() for tensor in made]
            self._alive |= {each._cdata: (StorageWeakRef(each), each.nbytes()) for each in storages}
            self._alive = {key: held for key, held in self._alive.items() if not held[0].expired()}
            self.peak = max(self.peak, sum(size for _, size in self._alive.values()))


class Fused(TorchFunctionMode):
    """Attention without a mask as one operator, as GPUs have it; the meta device would make all scores."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*args, *(kwargs or {}).values()]
        if func is F.scaled_dot_product_attention and given[0].is_meta:
            return torch.ops.aten._scaled_dot_product_flash_attention(*given[:3])[0]
        return func(*args, **kwargs or {})
