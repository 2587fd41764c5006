"""ControlNets whose hints show one tile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.utils
from torch import Tensor

from ...tiling.plan import Box, TilePlan

# Set by a run before tiles are made, which a copy lacks: a ControlLoRA's network is one, a T2I adapter's device another.
OF_THE_RUN = ("timestep_range", "model_sampling_current", "control_model", "manual_cast_dtype", "device")


class Hints:
    """Copies of ControlNets that show something else, one for all conditionings that share one. change: of a hint [B, C, h, w],
    its pixels along a latent cell's side, and how it is scaled."""

    def __init__(self, change: Callable[[Tensor, int, str], Tensor]) -> None:
        self.change = change
        self.copies: dict[int, Any] = {}

    def __call__(self, control: Any) -> Any:
        if id(control) not in self.copies:
            copy, algorithm = control.copy(), control.upscale_algorithm
            if control.cond_hint_original is not None:
                copy.cond_hint_original = self.change(control.cond_hint_original, hint_ratio(control), algorithm)
            extras = control.extra_concat_orig
            copy.extra_concat_orig = [self.change(each, control.compression_ratio, algorithm) for each in extras]
            if control.previous_controlnet is not None:
                copy.set_previous_controlnet(self(control.previous_controlnet))
            self.copies[id(control)] = copy
        return self.copies[id(control)]


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


def hint_ratio(control: Any) -> int:
    """Pixels of a hint along a latent cell's side."""
    return control.compression_ratio * (1 if control.vae is None else control.vae.spacial_compression_encode())
