"""Weights of tiles and of conditionings' areas on the canvas, as the host reads them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...tiling.plan import Box, TilePlan
from .crop import Area

FADE = 8  # latent cells over which the host softens the inner borders of an area


def flat_area(area: tuple[int, ...]) -> Area:
    """Height, width, top and left of an area, which may have frames before them."""
    half = len(area) // 2
    height, width, top, left = (*area[half - 2 : half], *area[-2:])
    return height, width, top, left


def sheet(weight: Tensor, plan: TilePlan) -> Tensor:
    """Store a tile's weight [n, h, w] so that ``on_canvas`` can show it at any place of the canvas. Returns [n, cells]."""
    n, _, width = weight.shape
    start = _start(plan, width)
    cells = weight.new_zeros(n, start + (plan.height - 1) * width + plan.width)
    cells[:, start : start + weight[0].numel()] = weight.flatten(1)
    return cells


def on_canvas(cells: Tensor, box: Box, plan: TilePlan) -> Tensor:
    """A view [n, canvas height, canvas width] of a sheet with the tile's weight at ``box``.

    Only the part inside the box means anything; the host reads no other. A real mask per tile would cost tiles x canvas.
    """
    offset = _start(plan, box.width) - (box.top * box.width + box.left)
    return cells.as_strided((len(cells), plan.height, plan.width), (cells.stride(0), box.width, 1), offset)


def _start(plan: TilePlan, width: int) -> int:
    """Cells before the weight of a tile of that width: as many as lie before the last tile of all."""
    return plan.tops[-1] * width + plan.lefts[-1]


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
