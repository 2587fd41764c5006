"""The picture of ``--compare``: plain enlargement and result, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..files.pictures import Picture

LINE = 4  # px of white between the two


def place(output: Path) -> Path:
    """Where the comparison of a result goes."""
    return output.with_name(f"{output.stem}-compare.jpg")


def extent(height: int, width: int) -> tuple[int, int]:
    """Height and width of the comparison of results of that size: wide ones lie above each other."""
    return (2 * height + LINE, width) if width > height else (height, 2 * width + LINE)


def beside(source: Picture, result: Picture) -> Picture:
    """The source, enlarged by plain bicubic interpolation, and the result right of it or below, on white where they are
    transparent."""
    import torch

    from ..files.pictures import Picture
    from ..files.pixels import resize

    after = result.on_white
    height, width = after.shape[-2:]
    before = resize(source.on_white, height=height, width=width).clamp(0, 1).to(after)
    below = width > height
    line = after.new_ones(1, 3, LINE, width) if below else after.new_ones(1, 3, height, LINE)
    return Picture(torch.cat([before, line, after], dim=2 if below else 3), icc=result.icc if not result.grey else None)
