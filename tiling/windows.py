"""How much each tile counts where tiles overlap."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .plan import TilePlan


def tile_windows(plan: TilePlan) -> list[tuple[Tensor, Tensor]]:
    """One (vertical [height], horizontal [width]) pair per tile, in the order of ``plan.boxes``.

    A tile's weight is the outer product of its pair. Weights are strictly positive and sum to one over the tiles of every
    canvas cell. They fade over the overlap only, as a squared sine (Hann) ramp, and never at the canvas border.
    """
    rows = _profiles(plan.tops, plan.heights)
    columns = _profiles(plan.lefts, plan.widths)
    return [(row, column) for row in rows for column in columns]


def window(pair: tuple[Tensor, Tensor]) -> Tensor:
    """The weight [height, width] of one tile."""
    return pair[0][:, None] * pair[1][None, :]


def _profiles(origins: tuple[int, ...], sizes: tuple[int, ...]) -> list[Tensor]:
    """Weights [size] per tile along one axis, normalised over all the tiles that cover a cell."""
    ends = [origin + size for origin, size in zip(origins, sizes, strict=True)]
    shared = [end - following for end, following in zip(ends, origins[1:], strict=False)]  # of each tile and the next
    kinds = list(zip([0, *shared], [*shared, 0], sizes, strict=True))
    fades = {kind: _fade(*kind) for kind in set(kinds)}
    total = torch.zeros(ends[-1], dtype=torch.float64)
    for origin, end, kind in zip(origins, ends, kinds, strict=True):
        total[origin:end] += fades[kind]
    return [(fades[kind] / total[origin:end]).float() for origin, end, kind in zip(origins, ends, kinds, strict=True)]


def _fade(before: int, after: int, size: int) -> Tensor:
    """Weights [size] that rise over the first ``before`` cells and fall over the last ``after``."""
    weights = torch.ones(size, dtype=torch.float64)
    weights[:before] *= _ramp(before)
    weights[size - after :] *= _ramp(after).flip(0)
    return weights


def _ramp(cells: int) -> Tensor:
    return torch.sin(math.pi / 2 * (torch.arange(cells, dtype=torch.float64) + 0.5) / max(1, cells)) ** 2
