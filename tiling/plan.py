"""Where the tiles lie: Python ints only, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

MOST_TILES = 10_000  # a 65536 px square in tiles of 1024 px has half as many


@dataclass(frozen=True)
class Box:
    """A rectangle on the canvas, in the plan's unit (pixels, or latent cells of ``TilePlan.latent``)."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        return self.top + self.height

    @property
    def right(self) -> int:
        return self.left + self.width

    def fractions(self, height: float, width: float) -> tuple[float, float, float, float]:
        """(top, left, height, width) as shares of a canvas of that size."""
        return self.top / height, self.left / width, self.height / height, self.width / width


@dataclass(frozen=True)
class TilePlan:
    """Equal tiles that cover a ``height`` x ``width`` canvas; ``tops`` and ``lefts`` are the origins per row and column.

    grid, cell: sides of a token and of a latent cell, in the plan's unit.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    overlap: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    grid: int
    cell: int

    @property
    def boxes(self) -> list[Box]:
        """Tiles row by row."""
        return [Box(top, left, self.tile_height, self.tile_width) for top in self.tops for left in self.lefts]

    @property
    def count(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def latent(self) -> TilePlan:
        """The same plan in latent cells; ValueError where a number of it is not divisible."""
        cell = self.cell
        numbers = (self.height, self.width, self.tile_height, self.tile_width, *self.tops, *self.lefts)
        odd = [n for n in numbers if n % cell]
        if odd:
            raise ValueError(f"plan number {odd[0]} is not a multiple of {cell}: plan a canvas of multiples of it")
        height, width, tile_height, tile_width, *origins = (n // cell for n in numbers)
        tops, lefts = tuple(origins[: len(self.tops)]), tuple(origins[len(self.tops) :])
        grid, overlap = self.grid // cell, self.overlap // cell
        return TilePlan(height, width, tile_height, tile_width, overlap, tops, lefts, grid=grid, cell=1)


def plan_tiles(height: int, width: int, *, tile: int, overlap: int, grid: int, cell: int = 1) -> TilePlan:
    """Cover a canvas with equal, evenly spread tiles.

    Every origin is a multiple of ``grid`` (the side of the model's tokens), neighbours share at least ``overlap``, and the
    plan is its own mirror image in both axes. Tiles are ``tile`` wide, or the whole side where that is smaller, less up to
    two ``grid`` cells: on a side that is no multiple of ``grid``, so that the last tile ends at the edge, and where a smaller
    tile is mirrored without one tile more.

    All sizes are in pixels, or all in latent cells (``cell`` 1). Raises ValueError for sizes that allow no plan.
    """
    if tile < grid or tile % grid:
        below = max(grid, tile // grid * grid)
        raise ValueError(f"tile {tile} must be a multiple of {grid}, at least {grid}: use {below} or {below + grid}")
    if overlap < 0:
        raise ValueError(f"overlap {overlap} must not be negative: 0 lets tiles touch, 128 is usual")
    if overlap >= tile:
        raise ValueError(f"overlap {overlap} must be smaller than tile {tile}: raise the tile or lower the overlap")
    for name, side in (("height", height), ("width", width)):
        if side < 1:
            raise ValueError(f"canvas {name} {side} must be at least 1")
    tile_height, *down = _fit(height, tile=tile, overlap=overlap, grid=grid)
    tile_width, *across = _fit(width, tile=tile, overlap=overlap, grid=grid)
    tiles = (down[1] + 1) * (across[1] + 1)
    if tiles > MOST_TILES:
        raise ValueError(
            f"a canvas of {width} x {height} takes {tiles:,} tiles of {tile} with overlap {overlap}, at most "
            f"{MOST_TILES:,} are allowed: raise the tile or lower the overlap"
        )
    tops, lefts = (tuple(accumulate(_gaps(*way, grid=grid), initial=0)) for way in (down, across))
    return TilePlan(height, width, tile_height, tile_width, overlap, tops, lefts, grid=grid, cell=cell)


def canvas_size(height: int, width: int, *, grid: int) -> tuple[int, int]:
    """The picture's size rounded up to whole grid cells."""
    return -(-height // grid) * grid, -(-width // grid) * grid


def _fit(side: int, *, tile: int, overlap: int, grid: int) -> tuple[int, int, int]:
    """The tile on one axis, the grid cells from its first to its last place, and in how many steps it goes there."""
    if side <= tile:
        return side, 0, 0
    tile -= (tile - side) % grid
    steps = (side - tile) // grid  # grid cells from first to last origin
    longest = (tile - overlap) // grid  # and per step
    if longest < 1:
        raise ValueError(
            f"overlap {overlap} leaves no room for a step of {grid} in tile {tile}: raise the tile or lower the overlap"
        )
    count = -(-steps // longest)
    if count % 2 == 0 and steps % 2:  # an odd way in an even number of steps has no mirror image
        if -(-(steps + 1) // max(1, longest - 1)) == count:
            return tile - grid, steps + 1, count
        count += 1
    return tile, steps, count


def _gaps(total: int, count: int, *, grid: int) -> list[int]:
    """``total`` grid cells in ``count`` near-equal steps that read the same from both ends."""
    base, extra = divmod(total, max(1, count))
    gaps = [base] * count
    if extra % 2:
        gaps[count // 2] += 1  # the middle step: an even count leaves an even remainder here
    pairs = extra // 2
    for k in range(pairs):
        i = (2 * k + 1) * (count // 2) // (2 * pairs)  # evenly over the first half
        gaps[i] += 1
        gaps[count - 1 - i] += 1
    return [gap * grid for gap in gaps]
