"""One picture of the training data, with whatever came beside it, and why others are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from ...dino.feature_map import FeatureMap


@dataclass(frozen=True)
class Sample:
    """A training picture; a field that the data does not bring is None."""

    name: str
    pixels: Tensor  # [3, H, W] 0..1, the true picture, H and W multiples of 16
    source: Tensor | None = None  # [3, H, W] 0..1, the data's own degraded picture
    features: FeatureMap | None = None  # B = 1, of the whole picture; None: encode the degraded source
    context: Tensor | None = None  # [n, 4096] text tokens
    pooled: Tensor | None = None  # [768] pooled text vector
    mask: Tensor | None = None  # [n] bool, False for text tokens that are padding


class Unusable(Exception):
    """Why a sample is skipped."""


class Skipped(Counter[str]):
    """How many samples cannot be used, by reason."""

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is ``Unusable``."""
        try:
            yield
        except Unusable as reason:
            self[str(reason)] += 1

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.items())


@contextmanager
def unusable(reason: str) -> Iterator[None]:
    """Turn whatever a decoder raises on damaged content into ``Unusable``; of what is already, the reason stays."""
    try:
        yield
    except Unusable:
        raise
    except Exception:  # struct.error, zlib.error, TokenError, KeyError ...: no list of them is ever whole
        raise Unusable(reason) from None
