"""What is done to ComfyUI's MODEL and CONDITIONING: patched with DINO, tiled, given DINO rows."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.patcher_extension
from comfy.ldm.flux import math as flux_math
from torch import nn

from ...flux_patch.adapter import LoadedAdapter
from ...flux_patch.families import FLUX1, FLUX2, supported
from ...flux_patch.geometry import FluxGeometry, family_of, geometry_of
from ...flux_patch.guide import Guide
from ...flux_patch.names import called
from ...tiling.plan import TilePlan
from ..host import Text
from .adapter import HostAdapter
from .carrier import DinoCond
from .control import HintCrop
from .foreign import foreign_patches
from .inject import CallWrapper, CanvasWrapper, DataWrapper, OutputPatch, QueryPatch, cond_key, outer_sample
from .latents import latents_of
from .memory import ManagedMemory, relief_of_run
from .patch_crop import PatchCrop
from .tiles import TileWrapper

TILING = "dinotile_tiling"  # of the wrappers of a tiled model
WITHOUT = (
    "work without an adapter, as Tile Model, Source Anchor and DINO Guidance do with any model that makes pictures"
)
Wrappers = comfy.patcher_extension.WrappersMP


def flux_geometry(model: Any, *, what: str = "adapters are", instead: str = WITHOUT) -> FluxGeometry:
    """Of a MODEL of a family of adapters; ValueError for any other, by the name that people know. what, instead: what is asked
    for, and what such a model has in its place."""
    inner = model.get_model_object("diffusion_model")
    if family_of(inner) is None:
        raise ValueError(f"the model is {name_of(model)}, {what} for {supported()}: load one of those, or {instead}")
    return geometry_of(inner)


def name_of(model: Any) -> str:
    """What people call a MODEL."""
    config = getattr(model.model, "model_config", None)
    return called(type(model.get_model_object("diffusion_model") if config is None else config).__name__)


def clone_of(model: Any) -> Any:
    """A clone whose parent is the model that all clones come from.

    The host keeps a loaded model under the name of one clone, and where that dies under the name of its parent. Two clones
    in a row that die together, as garbage of an exception, would leave it a model without a name, to warn of as leaked.
    """
    clone = model.clone()
    while clone.parent.parent is not None:
        clone.parent = clone.parent.parent
    return clone


def patch_flux(model: Any, host_adapter: HostAdapter) -> Any:
    """A clone of the model in which the adapter's hooks are installed."""
    adapter = host_adapter.adapter
    adapter.module.check_geometry(flux_geometry(model))
    key = cond_key(adapter)
    model = clone_of(model)
    if Wrappers.APPLY_MODEL in model.wrappers and key in model.wrappers[Wrappers.APPLY_MODEL]:
        raise ValueError("the model is already patched with this adapter: remove one 'Patch FLUX with DINO'")
    model.add_wrapper_with_key(Wrappers.OUTER_SAMPLE, key, outer_sample)
    model.add_wrapper_with_key(Wrappers.CALC_COND_BATCH, key, CanvasWrapper(key))
    model.add_wrapper_with_key(Wrappers.APPLY_MODEL, key, CallWrapper(adapter))
    model.add_wrapper_with_key(Wrappers.DIFFUSION_MODEL, key, DataWrapper(key, adapter.config.family))
    rope, rope1 = flux_math.apply_rope, flux_math.apply_rope1
    model.set_model_attn1_patch(QueryPatch(key, host_adapter.patcher, apply_rope=rope, apply_rope1=rope1))
    model.set_model_attn1_output_patch(OutputPatch(key))
    return model


def attach(conditioning: list, adapter: LoadedAdapter, guide: Guide) -> list:
    """A copy of a CONDITIONING that carries the guide's DINO rows."""
    key = cond_key(adapter)
    entry = DinoCond(guide, adapter=f"{adapter.fingerprint} ({adapter.config.dino})")
    return [[c, {**d, "model_conds": {**d.get("model_conds", {}), key: entry}}] for c, d in conditioning]


def empty_conditioning(model: Any, *, tokens: int, guidance: float) -> list:
    """CONDITIONING of zero text tokens [1, tokens, context] in the model's widths, with a zero pooled vector and a guidance
    where the model has them."""
    geometry = flux_geometry(model, what="empty texts are", instead="encode an empty text with its own text encoder")
    text = Text.empty(geometry, tokens=tokens, guidance=guidance)
    more: dict[str, Any] = {"pooled_output": text.pooled} if geometry.vector else {}
    second = geometry.family == FLUX2.name and model.get_model_object("diffusion_model").params.guidance_embed
    if geometry.family == FLUX1.name or second:
        more["guidance"] = text.guidance
    return [[text.context, more]]


def tile_model(model: Any, plan: TilePlan, *, moving: bool = False) -> Any:
    """A clone of the model that every sampler runs tile by tile, all tiles in each step. moving: ``tiling.moved`` ones."""
    latents_of(model).check_plan(plan)
    model = clone_of(model)
    if model.wrappers.get(Wrappers.CALC_COND_BATCH, {}).get(TILING):
        raise ValueError("the model is already tiled: remove one 'Tile Model', or do not connect it to 'Tiled Sampler'")
    tiles = TileWrapper(
        plan,
        moving=moving and plan.count > 1,
        crop_controls=HintCrop,
        crop_patches=PatchCrop,
        find_patches=foreign_patches,
        check_interrupt=comfy.model_management.throw_exception_if_processing_interrupted,
        memory=ManagedMemory,
        relief=relief_of_run,
    )
    for kind, wrapper in (
        (Wrappers.OUTER_SAMPLE, tiles.outer_sample),
        (Wrappers.CALC_COND_BATCH, tiles.calc_cond_batch),
        (Wrappers.APPLY_MODEL, tiles.apply_model),
    ):
        model.add_wrapper_with_key(kind, TILING, wrapper)
    return model


def keep_for_backward(module: nn.Module) -> None:
    """Give a module weights that autograd may keep, where it was loaded or moved in inference mode; the values stay.

    Costs a copy of one weight at a time. Weights that were moved since keep their memory and lose only the mark.
    """
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            kept = nn.Parameter(weight.data.clone() if weight.is_inference() else weight.data, requires_grad=False)
            kept.__dict__.update(weight.__dict__)  # the host's notes
            setattr(part, name, kept)
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.clone() if buffer.is_inference() else buffer)
