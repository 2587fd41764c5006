"""FLUX.1 Redux on FLUX's own weights: what it says of a picture, for each region of it, as further tokens of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dino.feature_map import sample_grid
from ..files.pixels import resize
from .families import MOST_REDUX
from .rows import WHOLE, Fractions
from .schedule import Strength


class Redux(Protocol):
    """SigLIP and Redux, in whichever host."""

    @property
    def side(self) -> int:
        """In px, of the square that SigLIP sees."""
        ...

    def tokens(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1 to tokens [B, n, n, C]."""
        ...


@dataclass(frozen=True, eq=False)
class RegionTokens:
    """What one region adds to the text: tokens [B, M, C], and the share of attention that they get, [M]; None where it is 1."""

    tokens: Tensor
    weights: Tensor | None


@dataclass(frozen=True, eq=False)
class ReduxTokens:
    """Tokens [B, h, w, C] of whole pictures. grid: tokens per side that a region gets. strength: how much attention they get,
    as a factor, beside the text's, and where; its schedule and profile are not used."""

    tokens: Tensor
    grid: int
    strength: Strength

    def __post_init__(self) -> None:
        if not 1 <= self.grid <= MOST_REDUX:
            raise ValueError(
                f"grid {self.grid} must be from 1 to {MOST_REDUX}: usually 9 to 27 tokens per side of a tile"
            )

    @property
    def pictures(self) -> int:
        return len(self.tokens)

    @property
    def count(self) -> int:
        """M, of a region."""
        return self.grid**2

    def region(self, box: Fractions = WHOLE) -> RegionTokens:
        """Of a box (top, left, height, width) in fractions of the pictures."""
        weights = None
        if self.strength.mask is not None:
            weights = self.strength.strength * self.strength.mask_on(box, height=self.grid, width=self.grid).flatten()
        elif self.strength.strength != 1:
            weights = torch.full((self.count,), self.strength.strength)
        return RegionTokens(sample_grid(self.tokens, [box], self.grid)[:, 0].flatten(1, 2), weights)


@torch.no_grad()
def picture_tokens(redux: Redux, pixels: Tensor, *, crops: int = 1) -> Tensor:
    """Tokens [B, n, n, C] of pictures [B, 3, H, W] in 0..1, on the CPU.

    crops: 1 = whole picture; 2 = averaged with those of a 2 x 2 grid of crops, [B, 2n, 2n, C], as ``EncodeSettings`` has it.
    """
    if crops not in (1, 2):
        raise ValueError(f"crops {crops} must be 1 (whole picture) or 2 (whole picture and a 2 x 2 grid of crops)")
    whole = redux.tokens(pixels).float().cpu()
    tokens = whole if crops == 1 else (_larger(whole) + _of_crops(redux, pixels)) / 2
    if not bool(tokens.isfinite().all()):
        raise ValueError("Redux gave tokens that are NaN or infinite: use float32, or another SigLIP or Redux file")
    return tokens


def _larger(tokens: Tensor) -> Tensor:
    return F.interpolate(tokens.movedim(3, 1), scale_factor=2, mode="bilinear").movedim(1, 3)


def _of_crops(redux: Redux, pixels: Tensor) -> Tensor:
    """Those of a 2 x 2 grid, [B, 2n, 2n, C]."""
    fine = resize(pixels, height=2 * redux.side, width=2 * redux.side)
    rows = [
        torch.cat([redux.tokens(crop) for crop in row.split(redux.side, dim=3)], dim=2)
        for row in fine.split(redux.side, dim=2)
    ]
    return torch.cat(rows, dim=1).float().cpu()
