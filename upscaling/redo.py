"""Which finished tiles a person wants once more: by number, by box, or painted."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..files.kinds import MEGAPIXELS
from ..files.paths import expanded
from ..tiling.plan import Box, TilePlan
from .masks import check_mask, load_mask

BOX = re.compile(r"(\d+)x(\d+)\+(\d+)\+(\d+)")
SAID = "give numbers from 1 (3,4), boxes in px of the result (WIDTHxHEIGHT+LEFT+TOP), or a picture that is white there"


def chosen_tiles(text: str, plan: TilePlan, *, size: tuple[int, int], max_megapixels: float = MEGAPIXELS) -> list[int]:
    """Numbers from 0 of a plan's tiles, in px. size: height and width of the result, which the plan's canvas may exceed.

    text: numbers from 1 and boxes on the result, between commas, or the path of a mask of the result's proportions. A tile is
    meant where there is any of a box, or anything as light as mid-grey, in its own part, in which it counts for more than its
    neighbours. ValueError for what is outside of the plan or the result, or means no tile."""
    path = expanded(text)  # or many numbers, which are longer than a name may be
    numbers = (
        _painted(path, plan, size, max_megapixels)
        if os.path.isfile(path)
        else [n for part in text.split(",") for n in _named(part.strip(), plan, size)]
    )
    if not numbers:
        raise ValueError(f"redo {text} means no tile of the {plan.count} there are: {SAID}")
    return sorted(set(numbers))


def check_redone(redone: Sequence[int], plan: TilePlan) -> None:
    """ValueError where tiles that were done again, from 0, are none of the plan's."""
    if max(redone) >= plan.count:
        raise ValueError(
            f"tile {max(redone) + 1} is said to be done again, and there are {plan.count}: give the file as it was written"
        )


def _named(part: str, plan: TilePlan, size: tuple[int, int]) -> list[int]:
    if part.isdecimal():
        if not 1 <= int(part) <= plan.count:
            raise ValueError(
                f"redo {part} is outside of the plan, which has tiles 1 to {plan.count}: give one of those, or a box"
            )
        return [int(part) - 1]
    found = BOX.fullmatch(part)
    if found is None:
        raise ValueError(f"redo {part!r} is no tile and no file: {SAID}")
    width, height, left, top = (int(number) for number in found.groups())
    asked = Box(top, left, height, width)
    if asked.top >= size[0] or asked.left >= size[1] or not height * width:
        raise ValueError(f"redo {part} lies outside of the result, {size[1]} x {size[0]} px: {SAID}")
    return [number for number, box in enumerate(_middles(plan)) if _meet(box, asked)]


def _painted(path: Path, plan: TilePlan, size: tuple[int, int], max_megapixels: float) -> list[int]:
    mask = load_mask(path, max_megapixels=max_megapixels)
    check_mask(mask, *size, name="redo")
    light = mask[0, 0] >= 0.5
    rows, columns = (count / side for count, side in zip(light.shape, size, strict=True))
    return [
        number
        for number, box in enumerate(_middles(plan))
        if bool(light[_part(box.top, box.bottom, rows), _part(box.left, box.right, columns)].any())
    ]


def _part(start: int, end: int, scale: float) -> slice:
    """The pixels of a mask that show any of a part of the result."""
    return slice(math.floor(start * scale), math.ceil(end * scale))


def _middles(plan: TilePlan) -> list[Box]:
    """Each tile's own part: up to the middle of what it shares with a neighbour."""
    rows, columns = (_own(starts, sizes) for starts, sizes in ((plan.tops, plan.heights), (plan.lefts, plan.widths)))
    return [Box(top, left, bottom - top, right - left) for top, bottom in rows for left, right in columns]


def _own(starts: tuple[int, ...], sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    ends = [start + size for start, size in zip(starts, sizes, strict=True)]
    borders = [(end + following) // 2 for end, following in zip(ends, starts[1:], strict=False)]
    return list(zip([0, *borders], [*borders, ends[-1]], strict=True))


def _meet(box: Box, other: Box) -> bool:
    return box.top < other.bottom and other.top < box.bottom and box.left < other.right and other.left < box.right
