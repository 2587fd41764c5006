"""Guides that look elsewhere: at another picture, at every tile alone, or nowhere; and a reader in DINO's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinotile.demo.train import world
from dinotile.demo.train.dino import KINDS, most_frequent
from dinotile.files.pixels import resize
from dinotile.flux_patch.guide import Guide, NullGuide
from dinotile.flux_patch.rows import WHOLE, DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.flux_patch.tokens import DinoTokens
from dinotile.tiling.canvas import cut
from dinotile.tiling.plan import Box, TilePlan
from dinotile.upscaling.guides import WholePicture

from .reader import Reader


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


@dataclass(frozen=True)
class Read(_Instead):
    """No DINO: ``reader`` names the textures of every tile from that tile alone, and the tile gets the tokens that stand for
    them. So FLUX knows what can be known by who sees no more than it does."""

    patches: Tensor  # [KINDS, C], the token that stands for each texture and for plain ground
    cls: Tensor  # [C]
    reader: Reader

    @torch.no_grad()
    def __call__(self, pixels: Tensor, *, plan: TilePlan, size: tuple[int, int]) -> Guide:
        tiles, factor = {}, size[0] // pixels.shape[-2]
        for box, cells in zip(plan.boxes, plan.latent.boxes, strict=True):
            own = pixels[..., box.top // factor : box.bottom // factor, box.left // factor : box.right // factor]
            named = self.reader(own)[0].argmax(0)  # [h / CELL, w / CELL]
            tiles[cells] = DinoTokens(self.patches[named][None], self.cls[None])
        return _TileGuide(tiles, self.whole.strength)


@torch.no_grad()
def words(whole: WholePicture, *, scenes: int = 40) -> tuple[Tensor, Tensor]:
    """What DINO's tokens say of each texture, as the mean over its patches in ``scenes`` that the table never asks of
    [KINDS, C], and the mean CLS [C]."""
    patches, kinds, cls = [], [], []
    for index in range(scenes):
        scene = world.scene(np.random.default_rng(10**6 + index))
        tokens = whole.tokens(torch.from_numpy(scene.source()).permute(2, 0, 1)[None])
        most, kind = most_frequent(torch.from_numpy(scene.labels()), tokens.patches.shape[1])
        patches.append(tokens.patches[0][most > 0.9])
        kinds.append(kind[most > 0.9])
        cls.append(tokens.cls[0])
    found, owners = torch.cat(patches), torch.cat(kinds)
    return torch.stack([found[owners == kind].mean(0) for kind in range(KINDS)]), torch.stack(cls).mean(0)


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
