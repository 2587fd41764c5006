"""A source picture as rows, for work that never needs all of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ..files.fingerprints import fingerprint_of
from ..files.resampling import Span, applied, span

STRIP = 256  # rows that are looked at together
BLOCK = 256  # columns that are resized together


class Source(Protocol):
    """A picture of which any rows can be had."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def rows(self, top: int, bottom: int) -> Tensor:
        """[1, 3, bottom - top, width] in 0..1, float32."""
        ...


class Pixels:
    """Pixels [1, 3, H, W] in 0..1 as a ``Source``."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[-2:]

    def rows(self, top: int, bottom: int) -> Tensor:
        return self.pixels[..., top:bottom, :].float().cpu()


def strips(source: Source) -> Iterator[Tensor]:
    for top in range(0, source.height, STRIP):
        yield source.rows(top, min(source.height, top + STRIP))


def content(source: Source) -> str:
    """Its fingerprint."""
    return fingerprint_of(strip.contiguous().numpy().tobytes() for strip in strips(source))


def reduced(source: Source, *, longest: int) -> Tensor:
    """[1, 3, h, w]: the picture as it is up to that side, else shrunk to it in strips."""
    side = max(source.height, source.width)
    if side <= longest:
        return source.rows(0, source.height)
    height, width = (max(1, round(each * longest / side)) for each in (source.height, source.width))
    out = torch.empty(1, 3, height, width)
    for top in range(0, height, STRIP):
        rows = span(top, min(height, top + STRIP), side=height, source=source.height)
        out[..., rows.start : rows.stop, :] = resized(source, rows, width=width)
    return out.clamp_(0, 1)


def resized(source: Source, rows: Span, *, width: int) -> Tensor:
    """The entries of a span of the picture, at that width; in blocks, as a span's weights take both its sides."""
    pixels = source.rows(rows.first, rows.last)
    starts = range(0, width, BLOCK)
    blocks = (span(start, min(width, start + BLOCK), side=width, source=source.width) for start in starts)
    return torch.cat([applied(rows, columns, pixels, top=rows.first) for columns in blocks], dim=-1)
