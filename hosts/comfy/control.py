"""ControlNets whose hints show one tile."""

from __future__ import annotations

from typing import Any

import comfy.utils
from torch import Tensor

from ...tiling.plan import Box, TilePlan


def crop_control(control: Any, box: Box, plan: TilePlan) -> Any:
    """A ControlNet chain whose hints show one tile: the hint as the host would fit it to the canvas, then cropped."""
    ratio = control.compression_ratio
    if control.vae is not None:
        ratio *= control.vae.spacial_compression_encode()
    tile = control.copy()
    tile.cond_hint_original = _crop_hint(control.cond_hint_original, box, plan, ratio, control.upscale_algorithm)
    tile.extra_concat_orig = [
        _crop_hint(extra, box, plan, 1, control.upscale_algorithm) for extra in control.extra_concat_orig
    ]
    tile.timestep_range = control.timestep_range
    if hasattr(control, "model_sampling_current"):
        tile.model_sampling_current = control.model_sampling_current
    for device, clone in getattr(control, "multigpu_clones", {}).items():  # since ComfyUI 0.23
        tile.multigpu_clones[device] = crop_control(clone, box, plan)
    if control.previous_controlnet is not None:
        tile.set_previous_controlnet(crop_control(control.previous_controlnet, box, plan))
    return tile


def _crop_hint(hint: Tensor, box: Box, plan: TilePlan, ratio: int, algorithm: str) -> Tensor:
    hint = comfy.utils.common_upscale(hint, plan.width * ratio, plan.height * ratio, algorithm, "center")
    return hint[..., box.top * ratio : box.bottom * ratio, box.left * ratio : box.right * ratio]
