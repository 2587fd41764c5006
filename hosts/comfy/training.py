"""Training on the models that ComfyUI holds: gradients through its FLUX, into the adapter only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import comfy.model_management
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import attention_pytorch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from ...dino.encode import DinoEncoder
from ...files.fingerprints import fingerprint_of, first_numbers
from ...flux_patch.adapter import LoadedAdapter
from ...flux_patch.families import FAMILIES, BlockKind
from ..attention import differentiable_attention
from .adapter import HostAdapter
from .host import ComfyHost
from .model import TILING, flux_geometry, keep_for_backward

SHAPE = (64, 64)  # of the first latents that there is room for
ACTIVATIONS = {True: 4, False: 40}  # by checkpointing: memory of a training step over an inference step's; a guess


def check_plain(model: Any) -> None:
    """ValueError for a MODEL that is compiled, whose backward pass may never come, or tiled, as a training never runs it."""
    for what, kind, key in (
        ("compiled", WrappersMP.APPLY_MODEL, COMPILE_KEY),
        ("tiled", WrappersMP.CALC_COND_BATCH, TILING),
    ):
        if model.wrappers.get(kind, {}).get(key):
            raise ValueError(f"the model is {what}, a training takes plain ones: connect it as it is before that")


class TrainingHost(ComfyHost):
    """``ComfyHost`` with gradients through FLUX into the adapter only. Make and use it inside ``gradients``.

    FLUX is a clone that shares its weights with the given model. It is loaded whole: weights that ComfyUI brings in and
    out while it computes would be gone before the backward pass. Models under ComfyUI's dynamic memory are therefore read
    from their file again, which costs their size in memory for as long as the training lasts.
    """

    def __init__(self, model: Any, vae: Any, adapter: LoadedAdapter, *, gradient_checkpointing: bool = True) -> None:
        geometry, inner = flux_geometry(model), model.get_model_object("diffusion_model")
        FAMILIES[geometry.family].check_channels((inner.first if hasattr(inner, "first") else inner.img_in).in_features)
        adapter.module.to(model.load_device, torch.float32)
        super().__init__(model.clone(disable_dynamic=True), vae, adapter=HostAdapter(adapter, None))
        self.activations = ACTIVATIONS[gradient_checkpointing]
        for kind in self.family.blocks:
            _train_blocks(self.patcher, kind, checkpointing=gradient_checkpointing)
        self.options["optimized_attention_override"] = _attention
        self.load([1, self.vae.latent_channels, *SHAPE])
        self.patcher.unpin_all_weights()
        keep_for_backward(self.patcher.model.diffusion_model)

    @contextmanager
    def running(self) -> Iterator[None]:
        """For the length of a training: the host knows whose turn it is."""
        self.patcher.pre_run()
        try:
            yield
        finally:
            self.patcher.cleanup()

    def load(self, shape: list[int]) -> None:
        memory = self.activations * self.patcher.memory_required(shape)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=memory, force_full_load=True)


@contextmanager
def gradients() -> Iterator[None]:
    """Leave the inference mode in which the host runs nodes, and let its FLUX use operations that have a gradient."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # norms under autocast
            yield
    finally:
        comfy.model_management.in_training = before


def models_fingerprint(model: Any, vae: Any, dino: DinoEncoder) -> str:
    """Of what a training learns from, cheaply: the first numbers of every weight, and of the LoRAs on FLUX."""
    unpatched = {name: kept.weight for name, kept in model.backup.items()}
    modules = ({**model.model.state_dict(), **unpatched}, vae.first_stage_model, dino.model, model.patches)
    return fingerprint_of(part for held in modules for part in _samples(held))


def _samples(held: Any) -> Iterator[bytes]:
    """Of weights however they are held: modules, LoRAs, and whatever contains tensors."""
    if isinstance(held, nn.Module):
        held = held.state_dict()
    if isinstance(held, Tensor):
        yield f"{list(held.shape)} {held.dtype}".encode()
        yield first_numbers(held)
    elif isinstance(held, dict):
        for name in sorted(held, key=str):
            yield str(name).encode()
            yield from _samples(held[name])
    elif isinstance(held, list | tuple):
        for part in held:
            yield from _samples(part)
    elif hasattr(held, "weights"):
        yield from _samples(held.weights)
    elif isinstance(held, str | int | float | None):
        yield repr(held).encode()


def _attention(chosen: Any, *args: Any, **kwargs: Any) -> Tensor:
    """torch's attention, whatever the host uses: SageAttention and its like have no gradient."""
    return attention_pytorch(*args, **kwargs)


def _train_blocks(patcher: Any, kind: BlockKind, *, checkpointing: bool) -> None:
    blocks = getattr(patcher.model.diffusion_model, kind.comfy)
    if not kind.replaced:
        for number in range(len(blocks)):
            name = f"diffusion_model.{kind.comfy}.{number}.forward"
            own = patcher.get_model_object(name)  # not the block's, where a training before may still have its patch
            patcher.add_object_patch(name, TrainedForward(own, checkpointing=checkpointing))
        return
    before = patcher.model_options["transformer_options"].get("patches_replace", {}).get("dit", {})
    place = f"{kind.name}_block"
    for number, block in enumerate(blocks):
        trained = TrainedBlock(block, before.get((place, number)), checkpointing=checkpointing)
        patcher.set_model_patch_replace(trained, "dit", place, number)


class TrainedBlock:
    """patches_replace: a block of FLUX, or what stood in its place, with a right backward pass.

    checkpointing: its activations are computed again then, instead of being kept. The block is called by itself, because
    the host's ``original_block`` is whichever block the host is at when it is called.
    """

    def __init__(self, block: nn.Module, inner: Any, *, checkpointing: bool) -> None:
        self.block, self.inner, self.checkpointing = block, inner, checkpointing

    def __call__(self, args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Tensor]:
        names = [name for name in ("img", "txt") if name in args]
        options = dict(args["transformer_options"])  # the host goes on to change its own

        def run(*streams: Tensor) -> tuple[Tensor, ...]:
            given = {**args, "transformer_options": options}
            given.update((name, stream.clone()) for name, stream in zip(names, streams, strict=True))
            with TrainedOperations():
                out = (
                    self._run(given)
                    if self.inner is None
                    else self.inner(given, {**extra, "original_block": self._run})
                )
            return tuple(out[name] for name in names)

        streams = [args[name] for name in names]
        return dict(zip(names, _checkpointed(run, *streams, on=self.checkpointing), strict=True))

    def _run(self, args: dict[str, Any]) -> dict[str, Tensor]:
        rest = {name: args[name] for name in ("vec", "pe", "attn_mask", "transformer_options")}
        if "txt" not in args:
            return {"img": self.block(args["img"], **rest)}
        img, txt = self.block(args["img"], args["txt"], **rest)
        return {"img": img, "txt": txt}


class TrainedForward:
    """An object patch: ``forward`` of a block that no patch can replace, with a right backward pass."""

    def __init__(self, forward: Any, *, checkpointing: bool) -> None:
        self.forward, self.checkpointing = forward, checkpointing

    def __call__(self, x: Tensor, *args: Any, transformer_options: dict[str, Any], **kwargs: Any) -> Tensor:
        options = dict(transformer_options)  # the host goes on to change its own

        def run(given: Tensor) -> Tensor:
            with TrainedOperations():
                return self.forward(given, *args, transformer_options=options, **kwargs)

        return _checkpointed(run, x, on=self.checkpointing)


def _checkpointed(run: Any, *streams: Tensor, on: bool) -> Any:
    return checkpoint(run, *streams, use_reentrant=False, preserve_rng_state=False) if on else run(*streams)


class TrainedOperations(TorchFunctionMode):
    """Layer norms keep a copy of their input for the backward pass, because FLUX's blocks then add to it in place. Attention
    runs in kernels with a right backward pass, whatever the host allows just around it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.layer_norm:
            args = (args[0].clone(), *args[1:])
        with differentiable_attention() if func is F.scaled_dot_product_attention else nullcontext():
            return func(*args, **(kwargs or {}))
