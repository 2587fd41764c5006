"""Conditionings' areas in tiles: what is run of each, and the weights of both on the canvas, as the host reads them."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...tiling.plan import Box, TilePlan
from .crop import Area

FADE = 8  # latent cells over which the host softens the inner borders of an area
MASK_GRID = "dinotile_mask_grid"  # in a conditioning: for how many rows and columns of the canvas its attention mask is
LEAST = 8  # latent cells of an area's sides, where the host makes one of a mask's bounds

log = logging.getLogger("dinotile")


def flat_area(area: tuple[int, ...]) -> Area:
    """Height, width, top and left of an area, which may have frames before them."""
    half = len(area) // 2
    height, width, top, left = (*area[half - 2 : half], *area[-2:])
    return height, width, top, left


def reached(area: tuple[int, ...] | None, tile: Box, plan: TilePlan, *, whole: bool) -> Box | None:
    """What of a tile a conditioning is run on: what its area and the tile share, as the host shows its text the area alone; None
    where that is nothing. whole: with all of the tokens in which it begins and ends.

    The whole tile without an area, and where the area goes on beyond the tile and less than ``LEAST`` cells, or a token, of it
    lie inside: the model could not see what such a strip shows. Weights alone then keep the text to the area. ValueError for an
    area outside the canvas.
    """
    if area is None:
        return tile
    height, width, top, left = flat_area(area)
    if top >= plan.height or left >= plan.width:
        raise ValueError(
            f"a conditioning's area begins at row {top} and column {left} of the latent, which has {plan.height} x {plan.width}: "
            "move the area into the picture"
        )
    height, width = min(height, plan.height - top), min(width, plan.width - left)
    first, last = max(top, tile.top), min(top + height, tile.bottom)
    start, end = max(left, tile.left), min(left + width, tile.right)
    if first >= last or start >= end:
        return None
    if whole:
        first, start = (side // plan.grid * plan.grid for side in (first, start))
        last = min(-(-last // plan.grid) * plan.grid, tile.bottom)
        end = min(-(-end // plan.grid) * plan.grid, tile.right)
    part = Box(first, start, last - first, end - start)
    least = max(LEAST, plan.grid)
    if part.height < min(least, height, tile.height) or part.width < min(least, width, tile.width):
        _tell_thin(least)
        return tile
    return part


def masks_of(mask: Tensor, *, pictures: int) -> Tensor:
    """[n, h, w] of a conditioning's mask, which the host gives a dimension of frames where latents have one. It takes them for
    the pictures in turn; ValueError where that does not come out even."""
    masks = mask.reshape(-1, *mask.shape[-2:])
    if len(masks) < pictures and pictures % len(masks):
        raise ValueError(
            f"a conditioning has {len(masks)} masks, and there are {pictures} pictures: give it one mask, or as many as pictures"
        )
    return masks


def shows_more(cond: dict[str, Any]) -> bool:
    """Whether a conditioning shows the model something of the picture that it must have in whole tokens."""
    return cond.get("control") is not None or MASK_GRID in cond or "ref_latents" in cond["model_conds"]


@cache
def _tell_thin(least: int) -> None:
    log.info(
        "a conditioning's area reaches less than %d latent cells into a tile: that tile is run whole for it, and its weights "
        "keep it to the area",
        least,
    )


def area_weight(area: tuple[int, ...], box: Box, plan: TilePlan, *, soft: bool) -> Tensor:
    """Weights [h, w] of an area in a box of the canvas. soft: whether its borders inside the canvas fade, as the host has them
    where there is no mask."""
    height, width, top, left = flat_area(area)
    rows = area_weights(top, height, side=plan.height, soft=soft)
    columns = area_weights(left, width, side=plan.width, soft=soft)
    return rows[box.top : box.bottom, None] * columns[None, box.left : box.right]


def sheet(weight: Tensor, plan: TilePlan, *, start: int) -> Tensor:
    """Store a weight [n, h, w] so that ``on_canvas`` can show it at any place of the canvas. start: at least ``cells_before``
    of that place. Returns [n, cells]."""
    n, _, width = weight.shape
    cells = weight.new_zeros(n, start + (plan.height - 1) * width + plan.width)
    cells[:, start : start + weight[0].numel()] = weight.flatten(1)
    return cells


def on_canvas(cells: Tensor, box: Box, plan: TilePlan, *, start: int) -> Tensor:
    """A view [n, canvas height, canvas width] of a sheet with the weight at ``box``.

    Only the part inside the box means anything; the host reads no other. A real mask per tile would cost tiles x canvas.
    """
    offset = start - cells_before(box)
    return cells.as_strided((len(cells), plan.height, plan.width), (cells.stride(0), box.width, 1), offset)


def cells_before(box: Box) -> int:
    """Cells of a canvas whose rows are as long as the box's that lie before it."""
    return box.top * box.width + box.left


def area_weights(start: int, length: int, *, side: int, soft: bool) -> Tensor:
    """Weights [side] of a conditioning's area along one axis of the canvas, in latent cells."""
    length = min(length, side - start)
    profile = torch.zeros(side)
    profile[start : start + length] = 1.0
    fade = min(FADE, length // 4) if soft else 0
    for i in range(fade):
        if start > 0:
            profile[start + i] *= (i + 1) / fade
        if start + length < side:
            profile[start + length - 1 - i] *= (i + 1) / fade
    return profile
