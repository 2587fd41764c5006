"""Where the tiles lie: Python ints only, no tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, product
from math import ceil, floor
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

SMALLEST, LARGEST = 0.1, 16.0  # factors of an upscale
MOST_TILES = 10_000  # a 65536 px square in tiles of 1024 px has half as many
NEAR = 0.75, 1.25  # of the tile that is asked for
LESS, LEAST_TOKENS = 0.75, 8  # of a tile's side where memory ends, and the least that is left of it
Fit = Literal["balanced", "exact"]
FITS: tuple[Fit, ...] = get_args(Fit)


class Tiles(NamedTuple):
    """Along one axis: how many, and how wide."""

    count: int
    size: int

    @property
    def sampled(self) -> int:
        return self.count * self.size


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

    def moved(self, down: int, right: int) -> Box:
        return Box(self.top + down, self.left + right, self.height, self.width)

    def fractions(self, height: float, width: float) -> tuple[float, float, float, float]:
        """(top, left, height, width) as shares of a canvas of that size."""
        return self.top / height, self.left / width, self.height / height, self.width / width


@dataclass(frozen=True)
class TilePlan:
    """Tiles that cover a ``height`` x ``width`` canvas in rows and columns: ``tops`` and ``heights`` of the rows, ``lefts`` and
    ``widths`` of the columns. All are equal, but where windows move (``moving.py``).

    grid, cell: sides of a token and of a latent cell, in the plan's unit.
    """

    height: int
    width: int
    overlap: int
    tops: tuple[int, ...]
    heights: tuple[int, ...]
    lefts: tuple[int, ...]
    widths: tuple[int, ...]
    grid: int
    cell: int

    def __repr__(self) -> str:
        tiles = f"{self.count} tiles of {self.tile_width} x {self.tile_height}"
        return f"TilePlan({self.width} x {self.height} in {tiles}, overlap {self.overlap})"

    @property
    def tile_height(self) -> int:
        """Of the largest tile."""
        return max(self.heights)

    @property
    def tile_width(self) -> int:
        """Of the largest tile."""
        return max(self.widths)

    @property
    def boxes(self) -> list[Box]:
        """Tiles row by row."""
        rows, columns = zip(self.tops, self.heights, strict=True), list(zip(self.lefts, self.widths, strict=True))
        return [Box(top, left, height, width) for top, height in rows for left, width in columns]

    @property
    def count(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def work(self) -> float:
        """Sampled pixels over those of the canvas."""
        return sum(self.heights) * sum(self.widths) / (self.height * self.width)

    @property
    def latent(self) -> TilePlan:
        """The same plan in latent cells; ValueError where a number of it is not divisible."""
        cell = self.cell
        numbers = (self.height, self.width, *self.tops, *self.heights, *self.lefts, *self.widths)
        odd = [n for n in numbers if n % cell]
        if odd:
            raise ValueError(f"plan number {odd[0]} is not a multiple of {cell}: plan a canvas of multiples of it")
        return self.each(lambda n: n // cell, cell=1)

    def box(self, tile: int) -> Box:
        """One of ``boxes``, which takes a while to make of thousands."""
        row, column = divmod(tile, len(self.lefts))
        return Box(self.tops[row], self.lefts[column], self.heights[row], self.widths[column])

    def alone(self, tile: int) -> TilePlan:
        """One of its tiles as a canvas of its own."""
        box = self.box(tile)
        sides = (0,), (box.height,), (0,), (box.width,)
        return TilePlan(box.height, box.width, self.overlap, *sides, grid=self.grid, cell=self.cell)

    def each(self, change: Callable[[int], int], *, cell: int) -> TilePlan:
        """The plan with all its numbers changed."""
        changed: dict[str, Any] = {name: change(getattr(self, name)) for name in ("height", "width", "overlap", "grid")}
        changed |= {name: tuple(map(change, getattr(self, name))) for name in ("tops", "heights", "lefts", "widths")}
        return TilePlan(**changed, cell=cell)


def plan_tiles(
    height: int, width: int, *, tile: int, overlap: int, grid: int, cell: int = 1, fit: Fit = "balanced"
) -> TilePlan:
    """Cover a canvas with equal, evenly spread tiles.

    Every origin is a multiple of ``grid`` (the side of the model's tokens), neighbours share at least ``overlap``, and the
    plan is its own mirror image in both axes. fit:

    - "balanced": of all rows, columns and tile sizes within ``NEAR`` of ``tile`` those that sample the fewest pixels, of
      several the squarer tile. A canvas side up to the largest such size is one tile wide.
    - "exact": tiles are ``tile`` wide, or the whole side where that is smaller, less up to two ``grid`` cells: on a side that
      is no multiple of ``grid``, and where a smaller tile is mirrored without one tile more.

    A side that is no multiple of ``grid`` is cut into tiles that end at its edge; balanced ones are as many as the next
    multiple takes, and may for that be up to two ``grid`` cells larger.

    All sizes are in pixels, or all in latent cells (``cell`` 1). Raises ValueError for sizes that allow no plan.
    """
    _check(height, width, tile=tile, overlap=overlap, grid=grid, fit=fit)
    found = (_exact if fit == "exact" else _balanced)(height, width, tile=tile, overlap=overlap, grid=grid)
    if found is None:
        raise ValueError(
            f"overlap {overlap} leaves no room for a step of {grid} in tile {tile}: raise the tile or lower the overlap"
        )
    down, across = found
    if down.count * across.count > MOST_TILES:
        raise ValueError(
            f"a canvas of {width} x {height} takes {down.count * across.count:,} tiles of {tile} with overlap {overlap}, at "
            f"most {MOST_TILES:,} are allowed: raise the tile or lower the overlap"
        )
    tops, lefts = _origins(height, down, grid=grid), _origins(width, across, grid=grid)
    heights, widths = (down.size,) * down.count, (across.size,) * across.count
    return TilePlan(height, width, overlap, tops, heights, lefts, widths, grid=grid, cell=cell)


def smaller_tiles(plan: TilePlan) -> TilePlan | None:
    """The same canvas in tiles of about ``LESS`` of the sides, with the same overlap; None where they would be too small for
    that, or for a model to see what they show."""
    least = max(2 * plan.overlap, LEAST_TOKENS * plan.grid)
    side = floor(LESS * max(plan.tile_height, plan.tile_width) / plan.grid) * plan.grid
    if side < least:
        return None
    try:
        return plan_tiles(
            plan.height, plan.width, tile=side, overlap=plan.overlap, grid=plan.grid, cell=plan.cell, fit="exact"
        )
    except ValueError:  # more tiles than are allowed, or no room for a step
        return None


def _check(height: int, width: int, *, tile: int, overlap: int, grid: int, fit: str) -> None:
    if fit not in FITS:
        raise ValueError(f"tile fit {fit!r} must be {' or '.join(FITS)}")
    for name, value in (("height", height), ("width", width), ("tile", tile), ("overlap", overlap)):
        if not isinstance(value, Integral):
            raise ValueError(f"{name} {value!r} must be a whole number of px, such as 1024")
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


def canvas_size(height: int, width: int, *, grid: int) -> tuple[int, int]:
    """The picture's size rounded up to whole grid cells."""
    return -(-height // grid) * grid, -(-width // grid) * grid


def _balanced(*sides: int, tile: int, overlap: int, grid: int) -> tuple[Tiles, Tiles] | None:
    """Down and across, what samples the least of all sizes near ``tile``; None where no size leaves room for a step."""
    least, most = ceil(NEAR[0] * tile / grid) * grid, floor(NEAR[1] * tile / grid) * grid
    whole = canvas_size(*sides, grid=grid)
    found = []
    for side in whole:
        sizes = [side] if side <= most else range(least, most + 1, grid)
        near = [tiles for size in sizes if (tiles := _tiles(side, size, overlap=overlap, grid=grid)).count]
        fewest = min((tiles.sampled for tiles in near), default=0)
        found.append([tiles for tiles in near if tiles.sampled == fewest])
    if not all(found):
        return None
    pair = zip(sides, whole, min(product(*found), key=_oblong), strict=True)
    down, across = (_ending(side, tiles, rest=end - side, overlap=overlap, grid=grid) for side, end, tiles in pair)
    return down, across


def _ending(side: int, tiles: Tiles, *, rest: int, overlap: int, grid: int) -> Tiles:
    """As many or fewer that end at ``side``, and not ``rest`` beyond it."""
    sizes = (tiles.size - rest + more for more in (0, grid, 2 * grid))
    other = (_tiles(side, size, overlap=overlap, grid=grid) for size in sizes)
    return next(found for found in other if 0 < found.count <= tiles.count)


def _exact(*sides: int, tile: int, overlap: int, grid: int) -> tuple[Tiles, Tiles] | None:
    """Down and across, of the size asked for, or a cell less where that is mirrored without one tile more."""
    found = []
    for side in sides:
        size = tile - (tile - side) % grid if side > tile else side
        usual, less = (_tiles(side, n, overlap=overlap, grid=grid) for n in (size, size - grid))
        found.append(less if 0 < less.count < usual.count else usual)
    down, across = found
    return (down, across) if down.count and across.count else None


def _tiles(side: int, size: int, *, overlap: int, grid: int) -> Tiles:
    """As many of that size as cover a side and are their own mirror image; 0 where there is no room for a step."""
    if side <= size:
        return Tiles(1, side)
    steps = (side - size) // grid  # grid cells from first to last origin
    longest = (size - overlap) // grid  # and per step
    if longest < 1:
        return Tiles(0, size)
    gaps = -(-steps // longest)
    return Tiles(
        1 + gaps + (gaps % 2 == 0 and steps % 2), size
    )  # an odd way in an even number of steps has no mirror image


def _oblong(pair: tuple[Tiles, Tiles]) -> tuple[float, int]:
    down, across = pair
    return max(down.size, across.size) / min(down.size, across.size), down.count * across.count


def _origins(side: int, tiles: Tiles, *, grid: int) -> tuple[int, ...]:
    gaps = _gaps((side - tiles.size) // grid, tiles.count - 1, grid=grid)
    return tuple(accumulate(gaps, initial=0))


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
