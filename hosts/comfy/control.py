"""ControlNets whose hints show one tile."""

from __future__ import annotations

from typing import Any

import comfy.utils
from torch import Tensor

from ...tiling.plan import Box, TilePlan
from .padded import hint_ratio

# Set by a run before tiles are made, which a copy lacks: a ControlLoRA's network is one, a T2I adapter's device another.
OF_THE_RUN = ("timestep_range", "model_sampling_current", "control_model", "manual_cast_dtype", "device")


class HintCrop:
    """Crops ControlNets to the tiles of one sampling run. Each hint is fitted to the canvas once, whatever the tiles, and theirs
    are views of it."""

    def __init__(self) -> None:
        self._fitted: dict[tuple, Tensor] = {}  # by the id of a hint that the run's conditioning holds

    def __call__(self, control: Any, box: Box, plan: TilePlan) -> Any:
        """A ControlNet chain whose hints show one tile: the hint as the host would fit it to the canvas, then cropped."""
        ratio, algorithm = hint_ratio(control), control.upscale_algorithm
        tile = control.copy()
        tile.cond_hint_original = self._crop(control.cond_hint_original, box, plan, ratio, algorithm)
        tile.extra_concat_orig = [
            self._crop(extra, box, plan, control.compression_ratio, algorithm) for extra in control.extra_concat_orig
        ]
        for name in OF_THE_RUN:
            if hasattr(control, name):
                setattr(tile, name, getattr(control, name))
        for device, clone in getattr(control, "multigpu_clones", {}).items():  # since ComfyUI 0.23
            tile.multigpu_clones[device] = self(clone, box, plan)
        if control.previous_controlnet is not None:
            tile.set_previous_controlnet(self(control.previous_controlnet, box, plan))
        return tile

    def _crop(self, hint: Tensor, box: Box, plan: TilePlan, ratio: int, algorithm: str) -> Tensor:
        key = (id(hint), ratio, algorithm)
        if key not in self._fitted:
            size = plan.width * ratio, plan.height * ratio
            self._fitted[key] = comfy.utils.common_upscale(hint, *size, algorithm, "center")
        return self._fitted[key][..., box.top * ratio : box.bottom * ratio, box.left * ratio : box.right * ratio]
