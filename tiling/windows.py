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
    overlaps = list(zip([0, *shared], [*shared, 0], strict=True))
    fades = {pair: _fade(*pair, size=size) for pair in set(overlaps)}
    total = torch.zeros(origins[-1] + size, dtype=torch.float64)
    for origin, pair in zip(origins, overlaps, strict=True):
        total[origin : origin + size] += fades[pair]
    return [
        (fades[pair] / total[origin : origin + size]).float() for origin, pair in zip(origins, overlaps, strict=True)
    ]


def _fade(before: int, after: int, *, size: int) -> Tensor:
    """Weights [size] that rise over the first ``before`` cells and fall over the last ``after``."""
    weights = torch.ones(size, dtype=torch.float64)
    weights[:before] *= _ramp(before)
    weights[size - after :] *= _ramp(after).flip(0)
    return weights


def _ramp(cells: int) -> Tensor:
    return torch.sin(math.pi / 2 * (torch.arange(cells, dtype=torch.float64) + 0.5) / max(1, cells)) ** 2
