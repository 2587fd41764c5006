"""What a model's options, patches and injections say, for its fingerprint: other nodes put any objects there."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Mapping
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from uuid import UUID

import comfy.model_patcher
import numpy as np
import torch
from comfy.patcher_extension import PatcherInjection
from comfy.weight_adapter.bypass import BypassForwardHook, BypassInjectionManager
from torch import Tensor, nn

from ...files.fingerprints import fingerprint, heads_fingerprint

PLAIN = (bool, int, float, str)
DEEPEST, MOST = 100, 100_000  # of what holds one another, and of all that is looked at
LOADED = ("comfy", "training")  # in the names of what a module says of how it lies in memory


def said_by(patcher: Any) -> Any:
    """Of a MODEL, as plain values in containers, the same in every process; ValueError for what cannot be read."""
    return _Reader(patcher).patcher(patcher)


def weights_of(patcher: Any) -> str:
    """Of a model as it is without its patches, which may be in it already, or those of another clone."""
    weights = dict(patcher.model.state_dict())
    for key, kept in patcher.backup.items():
        weights[key] = kept.weight
    for name, kept in patcher.object_patches_backup.items():
        weights = {key: value for key, value in weights.items() if not key.startswith(f"{name}.")}
        if isinstance(kept, nn.Module):
            weights |= {f"{name}.{key}": value for key, value in kept.state_dict().items()}
    return heads_fingerprint({key: value for key, value in weights.items() if isinstance(value, Tensor)})


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def unknown(thing: Any) -> ValueError:
    """The error for a thing that cannot be read."""
    return ValueError(
        f"finished tiles cannot be kept where a {type(thing).__name__} is part of the work, as one is not told from another: "
        "leave keep empty"
    )


class _Reader:
    """Reads objects by what they were made with, as the rest of them may change while they run. path: what holds what is read
    now; own: the names of the model's own modules, whose weights may have patches in them."""

    def __init__(self, patcher: Any) -> None:
        self.model = patcher.model
        self.path: list[int] = []
        self.read = 0
        replaced = patcher.object_patches_backup
        self.own = {
            id(module): name
            for name, module in patcher.model.named_modules()
            if not any(f"{name}.".startswith(f"{key}.") for key in replaced)
        }
        for key, kept in replaced.items():
            if isinstance(kept, nn.Module):
                self.own |= {id(module): f"{key}.{name}" for name, module in kept.named_modules()}

    def patcher(self, patcher: Any) -> Any:
        return self([patcher.model_options, patcher.object_patches, patcher.wrappers, patcher.injections])

    def __call__(self, thing: Any) -> Any:
        if thing is None or isinstance(thing, (*PLAIN, bytes, torch.dtype, Enum)):
            return thing
        if isinstance(thing, UUID):  # drawn anew in every process
            return "UUID"
        if isinstance(thing, Tensor):
            return [list(thing.shape), str(thing.dtype), fingerprint(bytes_of(thing))]
        if id(thing) in self.path:
            return f"again {len(self.path) - self.path.index(id(thing))}"
        self.read += 1
        if len(self.path) == DEEPEST or self.read > MOST:
            raise unknown(thing)
        self.path.append(id(thing))
        found = self._inside(thing)
        self.path.pop()
        return found

    def _inside(self, thing: Any) -> Any:
        if isinstance(thing, Mapping):
            return {str(self(key)): self(value) for key, value in thing.items()}
        if isinstance(thing, (list, tuple)):
            return [self(each) for each in thing]
        if isinstance(thing, (set, frozenset)) and all(isinstance(each, PLAIN) for each in thing):
            return sorted(map(repr, thing))
        if isinstance(thing, (np.ndarray, np.generic)) and not thing.dtype.hasobject:
            return [str(thing.dtype), list(thing.shape), thing.tobytes()]
        if isinstance(thing, comfy.model_patcher.ModelPatcher):  # a clone of the model itself may lie in its options
            return "" if thing.model is self.model else [weights_of(thing), self(thing.patches), self.patcher(thing)]
        if isinstance(thing, nn.Module):
            return self._module(thing)
        if isinstance(thing, partial):
            return [self(thing.func), self(thing.args), self(thing.keywords)]
        if isinstance(thing, MethodType):
            return [self(thing.__func__), self(thing.__self__)]
        if isinstance(thing, FunctionType):
            return [thing.__qualname__, self(thing.__defaults__), self(thing.__kwdefaults__), self(_enclosed(thing))]
        if isinstance(thing, (type, BuiltinFunctionType)):
            return thing.__qualname__
        if isinstance(thing, (complex, range, slice, torch.device)):
            return str(thing)
        if isinstance(thing, ModuleType):
            return thing.__name__
        if isinstance(thing, PatcherInjection):
            return self(thing.inject)  # the other half takes it out
        if isinstance(thing, BypassInjectionManager):
            return self(thing.hooks)
        if isinstance(thing, BypassForwardHook):
            return self([thing.module, thing.multiplier, type(thing.adapter), _bypassing(thing)])
        return [_kind(thing), self(self._made_with(thing))]

    def _module(self, module: nn.Module) -> Any:
        if id(module) in self.own:
            return self.own[id(module)]
        own = {f"{name}.": self.own[id(part)] for name, part in module.named_modules() if id(part) in self.own}
        weights = {
            name: value
            for name, value in module.state_dict().items()
            if isinstance(value, Tensor) and not name.startswith(tuple(own))
        }
        plain = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, PLAIN) and not name.startswith("_") and not any(word in name for word in LOADED)
        }
        return [_kind(module), heads_fingerprint(weights), own, plain]

    def _made_with(self, thing: Any) -> dict[str, Any]:
        """What an object keeps of its making, or all that it holds where it does not keep all of that by name."""
        slots = [name for kind in type(thing).__mro__ for name in _listed(vars(kind).get("__slots__", ()))]
        if not slots and not hasattr(thing, "__dict__"):
            raise unknown(thing)
        held = {name: getattr(thing, name) for name in slots if name != "__dict__" and hasattr(thing, name)}
        held |= getattr(thing, "__dict__", {})
        try:
            made = [*inspect.signature(type(thing).__init__).parameters][1:]
        except (TypeError, ValueError):  # one without a signature
            made = []
        kept = {name: held[key] for name in made for key in (name, f"_{name}") if key in held}
        return kept if made and len(kept) == len(made) else held


def _kind(thing: Any) -> str:
    """With those it is made of: the host makes kinds of the same name of others."""
    return " ".join(kind.__qualname__ for kind in type(thing).__mro__)


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _enclosed(function: FunctionType) -> list[Any]:
    """What a function found around it when it was made, without what it puts there while it runs."""
    code, found = function.__code__, []
    changed = {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_DEREF"}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            found.append(None if name in changed else cell.cell_contents)
        except ValueError:  # not there yet
            found.append(None)
    return found


def _bypassing(hook: BypassForwardHook) -> Any:
    """A LoRA's weights beside a layer, in the layer's type, to which the first run casts them."""
    kind = getattr(getattr(hook.module, "weight", None), "dtype", None)
    weights = getattr(hook.adapter, "weights", None)
    if weights is None or isinstance(hook.adapter, nn.Module):
        return hook.adapter
    listed = weights if isinstance(weights, (list, tuple)) else [weights]
    cast = kind in (torch.float32, torch.float16, torch.bfloat16)
    return [each.to(kind) if cast and isinstance(each, Tensor) else each for each in listed]
