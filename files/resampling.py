"""Parts of a resized picture, without the rest of it: the same numbers as ``pixels.resize`` gives for the whole."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor

A = -0.5  # of the cubic, as torch's antialiased one and Pillow's
REACH = {"cubic": 2.0, "linear": 1.0}  # px on either side


@dataclass(frozen=True, eq=False)
class Span:
    """Entries ``start`` .. ``stop`` of a resized axis: ``weights`` [stop - start, last - first] times entries ``first`` ..
    ``last`` of the axis before."""

    start: int
    stop: int
    first: int
    last: int
    weights: Tensor


def span(start: int, stop: int, *, side: int, source: int, kind: str = "cubic") -> Span:
    """Of an axis of ``source`` entries that becomes ``side`` long, antialiased, as torch's interpolate weighs it."""
    step = source / side
    scale = max(1.0, step)
    reach = REACH[kind] * scale
    first = max(0, floor((start + 0.5) * step - reach))
    last = min(source, ceil((stop - 0.5) * step + reach) + 1)
    middles = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * step
    at = torch.arange(first, last, dtype=torch.float64) + 0.5
    weights = _kernel((at[None] - middles[:, None]) / scale, kind)
    return Span(start, stop, first, last, (weights / weights.sum(1, keepdim=True)).float())


def _kernel(x: Tensor, kind: str) -> Tensor:
    x = x.abs()
    if kind == "linear":
        return (1 - x).clamp(min=0)
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def applied(rows: Span, columns: Span, pixels: Tensor, *, top: int = 0, left: int = 0) -> Tensor:
    """[.., rows.stop - rows.start, columns.stop - columns.start] of pixels whose corner lies at top and left."""
    pixels = pixels[..., rows.first - top : rows.last - top, columns.first - left : columns.last - left]
    wide = columns.weights.to(pixels)
    return rows.weights.to(pixels) @ (pixels @ wide.T)


def within(whole: Span, first: int, last: int) -> Span:
    """The same entries from what is there of the axis before, ``first`` .. ``last``, which then weighs as much as all."""
    first, last = max(first, whole.first), min(last, whole.last)
    weights = whole.weights[:, first - whole.first : last - whole.first]
    return Span(whole.start, whole.stop, first, last, weights / weights.sum(1, keepdim=True))
