"""How much each tile counts where tiles overlap."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .plan import TilePlan


def tile_windows(plan: TilePlan) -> list[tuple[Tensor, Tensor]]:
    """One (vertical [tile_height], horizontal [tile_width]) pair per tile, in the order of ``plan.boxes``.

    A tile's weight is the outer product of its pair. Weights are strictly positive and sum to one over the tiles of every
    canvas cell. They fade over the overlap only, as a squared sine (Hann) ramp, and never at the canvas border.
    """
    rows = _profiles(plan.tops, plan.tile_height)
    columns = _profiles(plan.lefts, plan.tile_width)
    return [(row, column) for row in rows for column in columns]


def window(pair: tuple[Tensor, Tensor]) -> Tensor:
    """The weight [tile_height, tile_width] of one tile."""
    return pair[0][:, None] * pair[1][None, :]


def _profiles(origins: tuple[int, ...], size: int) -> list[Tensor]:
    """Weights [size] per tile along one axis, normalised over all the tiles that cover a cell."""
    shared = [a + size - b for a, b in zip(origins, origins[1:], strict=False)]  # cells of each tile and the next
    overlaps = zip([0, *shared], [*shared, 0], strict=True)
    raw = [[_fade(i, before=before, after=after, size=size) for i in range(size)] for before, after in overlaps]
    total = [0.0] * (origins[-1] + size)
    for origin, weights in zip(origins, raw, strict=True):
        for i, weight in enumerate(weights):
            total[origin + i] += weight
    return [
        torch.tensor([w / total[origin + i] for i, w in enumerate(weights)], dtype=torch.float32)
        for origin, weights in zip(origins, raw, strict=True)
    ]


def _fade(i: int, *, before: int, after: int, size: int) -> float:
    weight = 1.0
    if i < before:
        weight *= math.sin(math.pi / 2 * (i + 0.5) / before) ** 2
    if size - 1 - i < after:
        weight *= math.sin(math.pi / 2 * (size - 0.5 - i) / after) ** 2
    return weight
