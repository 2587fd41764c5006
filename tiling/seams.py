"""Whether tile borders can be seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from .plan import TilePlan

NEAR = 7  # px on either side of a border; other borders lie further away
LEAST = 1 / 510  # half a level of 8 bits: what is smaller no file keeps


@dataclass(frozen=True)
class Border:
    """A side of a tile inside the picture: between ``rows`` of tiles, where it is horizontal, or between ``columns``.

    It lies between the pixels ``at - 1`` and ``at``, from ``start`` to ``end``. ratio: log of the mean step across it over that
    beside it, 0 is neutral. step: how high a step stands out of what is beside it, in the picture's unit; below 0 it is smoother.
    Of both the source's own is taken off, where there is one.
    """

    between: Literal["rows", "columns"]
    at: int
    start: int
    end: int
    ratio: float
    step: float


@dataclass(frozen=True)
class Seams:
    """All borders of a picture."""

    borders: list[Border]

    def ratio(self, *between: str) -> float:
        """Mean of those between rows, columns or both; 0 where there are none."""
        ratios = [border.ratio for border in self.borders if border.between in between]
        return fmean(ratios) if ratios else 0.0

    def summary(self) -> dict[str, float]:
        """Mean ratio of all borders (score), of rows, and of columns; the highest step."""
        return {
            "score": self.ratio("rows", "columns"),
            "rows": self.ratio("rows"),
            "columns": self.ratio("columns"),
            "step": max(border.step for border in self.borders),
        }

    def worst(self, number: int) -> list[Border]:
        """Those with the largest ratios."""
        return sorted(self.borders, key=lambda border: border.ratio, reverse=True)[:number]


def measure_seams(pixels: Tensor, plan: TilePlan, *, source: Tensor | None = None) -> Seams:
    """How far each border of tiles stands out of its neighbourhood, ``NEAR`` px on either side.

    pixels: [B, C, H, W], the canvas or its top left part. source: the picture that was drawn anew, [B, C, H, W], so that edges
    that it has there are no seams. ratio: log(G_border / G_near), G the mean absolute first difference. step: root of
    the mean squared difference of slopes d0 - (d-1 + d1) / 2 on the border less that beside it (Minami and Zakhor 1995): a
    step of that height and nothing else has it. ValueError without borders.
    """
    rows, columns = (plan.tops, plan.heights), (plan.lefts, plan.widths)
    borders = _borders("rows", pixels, source, edges=_edges(*rows), spans=columns)
    borders += _borders("columns", pixels, source, edges=_edges(*columns), spans=rows)
    if not borders:
        raise ValueError("the plan has one tile and so no borders: measure a picture of several tiles")
    return Seams(borders)


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


def _borders(
    between: Literal["rows", "columns"],
    pixels: Tensor,
    source: Tensor | None,
    *,
    edges: Iterable[int],
    spans: tuple[Sequence[int], Sequence[int]],
) -> list[Border]:
    """spans: origins and sizes of the tiles along the edges."""
    dim = 2 if between == "rows" else 3
    length, along = pixels.shape[dim], pixels.shape[5 - dim]
    ends = [(origin, min(origin + size, along)) for origin, size in zip(*spans, strict=True) if origin < along]
    found = []
    for at in (edge for edge in edges if edge + 2 <= length):
        pictures = [_figures(picture, dim, at) for picture in (pixels, source) if picture is not None]
        for start, end in ends:
            scores = (_scores(*figures[:, start:end].mean(1).tolist()) for figures in pictures)
            ratio, square = (own - sum(others) for own, *others in zip(*scores, strict=True))
            found.append(Border(between, at, start, end, ratio, math.copysign(abs(square) ** 0.5, square)))
    return found


def _scores(step: float, near: float, bend: float, bends: float) -> tuple[float, float]:
    return math.log((step + LEAST) / (near + LEAST)), bend - bends


def _figures(pixels: Tensor, dim: int, at: int) -> Tensor:
    """Of each pixel along a line, in the mean of pictures and channels: step across it, mean step beside it, and squared
    differences of slopes likewise, [4, length]."""
    first = max(0, at - NEAR - 1)
    steps = pixels.movedim(dim, -1)[..., first : at + NEAR + 1].float().diff(dim=-1)  # [B, C, length, 2 * NEAR + 1]
    bends = (steps[..., 1:-1] - (steps[..., :-2] + steps[..., 2:]) / 2).square()
    steps, here = steps.abs(), at - 1 - first
    beside = (torch.arange(steps.shape[-1]) - here).abs() >= 2
    figures = [steps[..., here], steps[..., beside].mean(-1)]
    figures += [bends[..., here - 1], bends[..., beside[1:-1]].mean(-1)]
    return torch.stack(figures).mean((1, 2))
