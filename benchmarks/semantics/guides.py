"""Guides that look elsewhere: at another picture, at every tile alone, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dinotile.files.pixels import resize
from dinotile.flux_patch.guide import Guide, NullGuide
from dinotile.flux_patch.rows import WHOLE, DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.flux_patch.tokens import DinoTokens
from dinotile.tiling.canvas import cut
from dinotile.tiling.plan import Box, TilePlan
from dinotile.upscaling.guides import WholePicture


@dataclass(frozen=True)
class _Instead:
    """What stands for the whole picture's guide, and tells of itself the same."""

    whole: WholePicture

    def describe(self) -> dict[str, Any]:
        return self.whole.describe()


@dataclass(frozen=True)
class Elsewhere(_Instead):
    """DINO looks at another picture [1, 3, h, w] than it is given."""

    pixels: Tensor

    def __call__(self, pixels: Tensor, *, plan: TilePlan, size: tuple[int, int]) -> Guide:
        return self.whole(self.pixels, plan=plan, size=size)


@dataclass(frozen=True)
class PerTile(_Instead):
    """DINO sees every tile alone; with ``both`` its tokens are averaged with those cropped from the whole picture's."""

    grid: int
    both: bool

    def __call__(self, pixels: Tensor, *, plan: TilePlan, size: tuple[int, int]) -> Guide:
        height, width = size
        shown = resize(pixels, height=height, width=width)
        everything, tiles = self.whole.tokens(pixels), {}
        for box, cells in zip(plan.boxes, plan.latent.boxes, strict=True):
            own = self.whole.tokens(cut(shown, box))
            tokens = own.sequence(0, WHOLE, self.grid)  # [1 + grid^2, C]
            if self.both:
                tokens = (tokens + everything.sequence(0, box.fractions(height, width), self.grid)) / 2
            tiles[cells] = DinoTokens(tokens[None, 1:].unflatten(1, (self.grid, self.grid)), tokens[:1])
        return _TileGuide(tiles, self.whole.strength)


class Dropped(_Instead):
    """The adapter acts, but DINO shows it nothing: every tile gets the learned null, as dropped rows do in training."""

    def __call__(self, pixels: Tensor, *, plan: TilePlan, size: tuple[int, int]) -> Guide:
        return NullGuide(self.whole(pixels, plan=plan, size=size))


@dataclass(frozen=True, eq=False)
class _TileGuide:
    tiles: dict[Box, DinoTokens]
    strength: Strength
    pictures: int = 1

    def row(self, image: int, box: Box, *, canvas: tuple[int, int]) -> DinoRow:
        return DinoRow(self.tiles[box], image, WHOLE, self.strength)
