"""Finished tiles joined where they lie, at the cost of a tile and not of the canvas."""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import cut
from .plan import Box, TilePlan
from .windows import tile_windows, window

LEVELS = 65535  # of a finished tile's values: finer than any file's


class Mosaic:
    """The finished tiles of a plan in px, each [3, height, width] in 16 bits; blended in float32 by the plan's windows."""

    def __init__(self, plan: TilePlan) -> None:
        self.plan, self.boxes, self.windows = plan, plan.boxes, tile_windows(plan)
        self.tiles: dict[int, Tensor] = {}

    def put(self, number: int, levels: Tensor) -> None:
        """levels: of ``levels_of``."""
        self.tiles[number] = levels

    def forget_above(self, row: int) -> None:
        """Let go of tiles that end there or above."""
        self.tiles = {number: tile for number, tile in self.tiles.items() if self.boxes[number].bottom > row}

    def over(self, base: Tensor, box: Box, numbers: list[int]) -> tuple[Tensor, Tensor]:
        """``base`` [1, 3, h, w], which shows a box of the canvas, with these tiles drawn over it, and how much of each pixel is
        theirs, [h, w] in 0..1. Where they are all tiles that cover the box, nothing of the base is left."""
        drawn, share = base.float().clone(), torch.zeros(box.height, box.width)
        for number in numbers:
            own = self.boxes[number]
            common = _common(own, box)
            if common is None:
                continue
            weight = cut(window(self.windows[number]), _from(common, own))
            tile = pixels_of(cut(self.tiles[number], _from(common, own)))
            there = _from(common, box)
            cut(drawn, there).add_(weight * (tile - cut(base.float(), there)))
            cut(share, there).add_(weight)
        return drawn, share.clamp_(max=1)

    def rows(self, top: int, bottom: int) -> Tensor:
        """Rows of the canvas whose tiles are all there, [1, 3, bottom - top, width]."""
        box = Box(top, 0, bottom - top, self.plan.width)
        out = torch.zeros(1, 3, box.height, box.width)
        for number, levels in self.tiles.items():
            own = self.boxes[number]
            common = _common(own, box)
            if common is not None:
                weight = cut(window(self.windows[number]), _from(common, own))
                cut(out, _from(common, box)).add_(weight * pixels_of(cut(levels, _from(common, own))))
        return out.clamp_(max=1)  # as weights sum to one but for their rounding


def levels_of(pixels: Tensor) -> Tensor:
    """[1, 3, h, w] in 0..1 as [3, h, w] in 16 bits."""
    return pixels[0].float().cpu().clamp(0, 1).mul(LEVELS).round().to(torch.int32).to(torch.uint16)


def pixels_of(levels: Tensor) -> Tensor:
    return levels.to(torch.float32) / LEVELS


def _common(box: Box, other: Box) -> Box | None:
    top, left = max(box.top, other.top), max(box.left, other.left)
    bottom, right = min(box.bottom, other.bottom), min(box.right, other.right)
    return Box(top, left, bottom - top, right - left) if bottom > top and right > left else None


def _from(box: Box, origin: Box) -> Box:
    return Box(box.top - origin.top, box.left - origin.left, box.height, box.width)
