"""What other nodes have put inside the model call, where it sees all rows of the call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comfy.hooks import EnumHookType
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from .inject import OPTIONS, BlockPatch

OF_ONE_CALL = {  # what keeps of a call what it uses elsewhere, and so of one tile for all: by the name of its patch
    "KV_Attn_Input": "Flux KV Cache keeps the references of one tile for all others",
    "SelfAttentionGuidance": "Self-Attention Guidance takes the attention of one tile for that of the whole picture",
}


def foreign_patches(model_options: dict, conds: list) -> tuple[str, ...]:
    """Their names. The pack's own and torch.compile treat each row alone and do not count; ValueError for what cannot be with
    tiles."""
    names = tuple(dict.fromkeys(_name(patch) for patch in _foreign(model_options, conds)))
    for name, why in OF_ONE_CALL.items():
        if name in names:
            raise ValueError(f"{why}: remove it from the model, or sample without tiles")
    return names


def _foreign(model_options: dict, conds: list) -> Iterator[Any]:
    options = model_options.get("transformer_options", {})
    for patches in options.get("patches", {}).values():
        yield from (patch for patch in patches if not isinstance(patch, BlockPatch))
    for replaced in options.get("patches_replace", {}).values():
        yield from replaced.values()
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        for key, wrappers in options.get("wrappers", {}).get(kind, {}).items():
            if key != COMPILE_KEY and not str(key).startswith(OPTIONS):
                yield from wrappers
    if "model_function_wrapper" in model_options:
        yield model_options["model_function_wrapper"]
    for cond in (cond for group in conds for cond in group or () if cond.get("hooks") is not None):
        yield from cond["hooks"].get_type(EnumHookType.TransformerOptions)


def _name(patch: Any) -> str:
    if isinstance(patch, tuple):  # with the kind of layer that it is for
        patch = patch[-1]
    return getattr(patch, "__qualname__", type(patch).__qualname__).split(".")[0]
