"""Conditionings of a picture that ends before its canvas, which is padded to whole tokens.

ComfyUI fits a ControlNet's hint, a mask and an area in percent to the latent, which is the canvas. Here they are fitted to the
picture and go on beyond it as the picture does: the last row and column again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import comfy.utils
from torch import Tensor
from torch.nn.functional import pad

from ...flux_patch.latents import Latents
from ...tiling.plan import canvas_size
from .control import Hints
from .shown import COVERS

WHOLE = 1 - 1e-6  # of a picture's side


def placed(*conditionings: list, latents: Latents, size: tuple[int, int]) -> list[list]:
    """Copies for the padded canvas of a picture of that height and width in px. What shares a ControlNet still does."""
    cells = size[0] / latents.cell, size[1] / latents.cell
    height, width = (side // latents.cell for side in canvas_size(*size, grid=latents.token))
    fit = Fit(cells, (height, width))
    return [[[text, {**fit(said), COVERS: cells}] for text, said in each] for each in conditionings]


def covered(conditionings: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[float, float] | None:
    """What ``placed`` said of a guider's conditionings, in latent cells; None where it was not asked."""
    return next((said[COVERS] for each in conditionings.values() for said in each if COVERS in said), None)


def grown(shown: Tensor, size: Sequence[int]) -> Tensor:
    """[B, C, h, w] with its last row and column again, up to that height and width."""
    return pad(shown, (0, size[1] - shown.shape[-1], 0, size[0] - shown.shape[-2]), mode="replicate")


class Fit:
    """What a conditioning says, fitted to a picture of ``size`` on a canvas."""

    def __init__(self, size: tuple[float, float], canvas: tuple[int, int]) -> None:
        self.size, self.canvas = size, canvas
        self.control = Hints(partial(self.pixels, crop="center"))

    def __call__(self, said: dict) -> dict:
        if self.size == self.canvas:
            return said
        said = dict(said)
        if said.get("control") is not None:
            said["control"] = self.control(said["control"])
        if isinstance(mask := said.get("mask"), Tensor) and mask.ndim in (2, 3):
            mask = mask.reshape(-1, 1, *mask.shape[-2:])
            said["mask"] = self.pixels(mask, 1, "bilinear", "disabled").squeeze(1)
        if (area := said.get("area")) is not None and area[0] == "percentage":
            said["area"] = ("percentage", *self.percent(area[1:3], area[3:]))
        return said

    def pixels(self, pixels: Tensor, ratio: int, algorithm: str, crop: str) -> Tensor:
        """[B, C, h, w] as the host fits it to the picture, ratio px a cell, its last row and column again up to the canvas."""
        height, width = (max(1, round(side * ratio)) for side in self.size)
        rows, columns = (side * ratio for side in self.canvas)
        return grown(comfy.utils.common_upscale(pixels, width, height, algorithm, crop), (rows, columns))

    def percent(self, sides: Sequence[float], starts: Sequence[float]) -> list[float]:
        """Height, width, top and left as shares of the canvas; what ends with the picture ends with the canvas."""
        shares = [side / whole for side, whole in zip(self.size, self.canvas, strict=True)]
        ends = [start + side for start, side in zip(starts, sides, strict=True)]
        ends = [1.0 if end > WHOLE else end * share for end, share in zip(ends, shares, strict=True)]
        starts = [start * share for start, share in zip(starts, shares, strict=True)]
        return [*(end - start for start, end in zip(starts, ends, strict=True)), *starts]
