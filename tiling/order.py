"""In which order tiles are finished where later ones see earlier ones, and which of them they see.

Tiles lie like the squares of a board with four colours: even rows and columns come first, so that a tile has its context from
all sides or from none. Which tiles a tile sees is a matter of its place alone, so those of a colour may be done in any order, at
once or by different machines.
"""

from __future__ import annotations

from itertools import accumulate

from .plan import TilePlan


def colour(plan: TilePlan, tile: int) -> int:
    """0 for the tiles that see no other, to 3 for those that see neighbours on all sides."""
    row, column = divmod(tile, len(plan.lefts))
    return 2 * (row % 2) + column % 2


def waves(plan: TilePlan) -> list[list[int]]:
    """All tiles by their colour: each wave sees tiles of earlier ones only."""
    found = [[tile for tile in range(plan.count) if colour(plan, tile) == each] for each in range(4)]
    return [wave for wave in found if wave]


def seen(plan: TilePlan, tile: int) -> list[int]:
    """The neighbours that a tile sees finished: those of a lower colour that it shares pixels with, in the plan's order."""
    return [other for other in neighbours(plan, tile) if colour(plan, other) < colour(plan, tile)]


def neighbours(plan: TilePlan, tile: int) -> list[int]:
    """The up to eight tiles around a tile that share pixels with it, in the plan's order."""
    wide = len(plan.lefts)
    row, column = divmod(tile, wide)
    rows = _touching(row, plan.tops, plan.heights)
    columns = _touching(column, plan.lefts, plan.widths)
    return [r * wide + c for r in rows for c in columns if (r, c) != (row, column)]


def order(plan: TilePlan) -> list[int]:
    """All tiles, each after those that it sees, so that rows of the canvas are whole as early as that allows: an odd row of tiles
    follows the even row below it."""

    def turn(tile: int) -> tuple[float, int, int]:
        row = tile // len(plan.lefts)
        return row + 1.5 * (row % 2), colour(plan, tile), tile

    return sorted(range(plan.count), key=turn)


def whole_after(plan: TilePlan) -> list[int]:
    """Rows of the canvas, from its top, that are whole when each tile of ``order`` is finished."""
    tops = [plan.tops[tile // len(plan.lefts)] for tile in order(plan)]
    left = list(accumulate(reversed(tops[1:]), min, initial=plan.height))
    return left[::-1]


def _touching(index: int, starts: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    end = starts[index] + sizes[index]
    near = range(max(0, index - 1), min(len(starts), index + 2))
    return [i for i in near if starts[i] < end and starts[i] + sizes[i] > starts[index]]
