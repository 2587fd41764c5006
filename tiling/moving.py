"""Windows that move: at every step the borders of tiles lie elsewhere, so that no place keeps a seam."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from random import Random

from .plan import TilePlan

TURNS = 0.7548776662466927, 0.5698402909980532  # of rows and of columns, 1/x and 1/x^2 for x^3 = x + 1
MOST = 1.375  # of an inner tile's side, for the outer ones


def moved(plan: TilePlan, *, step: int, seed: int) -> TilePlan:
    """The tiles of a step: all borders of a plan's rows, and of its columns, shifted by up to a quarter of a tile.

    Inner tiles keep the plan's size, the outer ones end at the canvas and so give or take the shift, from half of that size to
    ``MOST`` of it. Neighbours share no more than the overlap that was asked for, in whole ``plan.grid`` cells, and all inner
    borders lie on that grid. It is the same for the same plan, step and seed; shifts of successive steps lie far apart, and over
    many steps all are as frequent: a sequence with the turns of R2 (M. Roberts, 2018), which the seed starts.
    """
    start = Random(seed)
    rows, columns = (2 * ((start.random() + step * turn) % 1) - 1 for turn in TURNS)
    tops, heights = _shifted(plan.height, plan.tile_height, rows, plan=plan)
    lefts, widths = _shifted(plan.width, plan.tile_width, columns, plan=plan)
    return TilePlan(plan.height, plan.width, plan.overlap, tops, heights, lefts, widths, grid=plan.grid, cell=plan.cell)


def step_of(sigma: float, sigmas: Sequence[float]) -> int:
    """The step of a falling schedule that a noise level belongs to: the last one that begins at it or above.

    A sampler that looks at several levels within a step, or twice at one, finds the same tiles at the same level.
    """
    return max(0, sum(level >= sigma * (1 - 1e-4) for level in sigmas) - 1)


def _shifted(side: int, size: int, share: float, *, plan: TilePlan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Origins and sizes along one axis. share: of the largest shift, -1 to 1."""
    if size >= side:
        return (0,), (side,)
    grid = plan.grid
    overlap = -(-plan.overlap // grid) * grid
    pitch = max(grid, (size - overlap) // grid * grid)  # from one inner origin to the next
    inner = max(0, ceil((side - overlap) / pitch - 1 - MOST))
    outer = (side - overlap - inner * pitch) / 2  # of the first tile and of the last, without the overlap
    room = max(0.0, min(pitch / 4, outer - pitch / 2, MOST * pitch - outer))
    first = max(grid, round((outer + share * room) / grid) * grid)
    origins = (0, *range(first, first + inner * pitch + 1, pitch))
    ends = (*(origin + overlap for origin in origins[1:]), side)
    return origins, tuple(end - origin for origin, end in zip(origins, ends, strict=True))
