"""A picture as the tiles of a plan, and tiles as a picture. Plans are in px."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..files.progress import Progress, counted
from .canvas import cut
from .plan import Box, TilePlan
from .windows import tile_windows, window


def split(pixels: Tensor, plan: TilePlan) -> tuple[list[Tensor], list[Box]]:
    """The tiles [B, C, tile height, tile width] of pictures [B, C, H, W], as views, and where they lie on those.

    What the pictures have beyond the plan, less than a latent cell, is left out half on either side, as the host's VAE does.
    ValueError for pictures of another size.
    """
    top, left = _margin(pixels, plan)
    boxes = [Box(box.top + top, box.left + left, box.height, box.width) for box in plan.boxes]
    return [cut(pixels, box) for box in boxes], boxes


def merge(
    tiles: Sequence[Tensor], plan: TilePlan, *, around: Tensor | None = None, progress: Progress | None = None
) -> Tensor:
    """Pictures [B, C, H, W] of a plan's tiles in its order, joined by sampling's windows; bit for bit what ``split`` was given.

    tiles: each [B, C, k * tile height, k * tile width] with one whole k, by which the picture grows. around: pictures of the
    size that was split, times k, for what they have beyond the plan. ValueError for other numbers and sizes.
    """
    if len(tiles) != plan.count:
        raise ValueError(
            f"there are {len(tiles)} tiles, the plan has {plan.count}: give all of its tiles in their order"
        )
    shapes = {tuple(tile.shape) for tile in tiles}
    factor = tiles[0].shape[-1] // plan.tile_width
    if len(shapes) > 1 or tiles[0].shape[-2:] != (factor * plan.tile_height, factor * plan.tile_width) or not factor:
        found = ", ".join(f"{shape[-1]} x {shape[-2]}" for shape in sorted(shapes)[:3])
        raise ValueError(
            f"the tiles are {found} px, those of the plan {plan.tile_width} x {plan.tile_height}: give all of them in that "
            "size, or in one whole multiple of it, and as many pictures of each"
        )
    plan = enlarged(plan, factor)
    base = tiles[0].new_zeros(*tiles[0].shape[:2], plan.height, plan.width)
    parts = list(zip(tiles, plan.boxes, tile_windows(plan), strict=True))
    for tile, box, _ in parts:
        cut(base, box).copy_(tile)
    merged = base.clone()
    for tile, box, pair in counted(parts, "merge", progress):  # differences, so that equal tiles are not even rounded
        cut(merged, box).add_((tile - cut(base, box)) * window(pair).to(tile))
    if around is None:
        return merged
    top, left = _margin(around, plan, factor)
    out = around.to(merged).expand(len(merged), -1, -1, -1).clone()
    cut(out, Box(top, left, plan.height, plan.width)).copy_(merged)
    return out


def covered(pixels: Tensor, plan: TilePlan) -> Tensor:
    """What of pictures [B, C, H, W] the plan covers, as a view; ValueError for pictures of another size."""
    return cut(pixels, Box(*_margin(pixels, plan), plan.height, plan.width))


def enlarged(plan: TilePlan, factor: int) -> TilePlan:
    """The same plan of a picture so many times as large."""
    return plan.each(lambda n: factor * n, cell=factor * plan.cell)


def _margin(pixels: Tensor, plan: TilePlan, factor: int = 1) -> tuple[int, int]:
    """What pictures, enlarged as the plan is, have above and left of its canvas; ValueError for another size."""
    height, width = pixels.shape[-2:]
    rest = height - plan.height, width - plan.width
    if not all(0 <= side < plan.cell for side in rest):
        raise ValueError(
            f"the picture is {width} x {height} px, the plan is for {plan.width} x {plan.height} px: connect the width and "
            "height of this very picture to Plan Tiles"
        )
    above, before = (side // factor // 2 * factor for side in rest)
    return above, before
