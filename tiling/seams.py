"""Whether tile borders can be seen."""

from __future__ import annotations

import torch
from torch import Tensor

from .plan import TilePlan


def border_ratio(pixels: Tensor, plan: TilePlan) -> float:
    """Mean step across tile borders over the mean step elsewhere; compare it with the untiled picture's own.

    pixels: [B, C, H, W], the canvas or its top left part. A step is the absolute difference of neighbouring pixels. Borders
    are the inner edges of all tiles in both directions. 1 is neutral, a visible grid raises it. ValueError without borders.
    """
    borders, others = [], []
    for dim, edges in ((2, _edges(plan.tops, plan.heights)), (3, _edges(plan.lefts, plan.widths))):
        steps = pixels.diff(dim=dim).abs().movedim(dim, 0).flatten(1).mean(1)  # [H - 1] or [W - 1]
        on_border = torch.zeros(len(steps), dtype=torch.bool)
        on_border[[edge - 1 for edge in edges if edge <= len(steps)]] = True
        borders.append(steps[on_border])
        others.append(steps[~on_border])
    border, other = torch.cat(borders), torch.cat(others)
    if not len(border):
        raise ValueError("the plan has one tile and so no borders: measure a picture of several tiles")
    return float(border.mean() / other.mean())


def _edges(origins: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    ends = (origin + size for origin, size in zip(origins, sizes, strict=True))
    return sorted({*origins, *ends} - {0, origins[-1] + sizes[-1]})
