"""One picture of the training data, with whatever came beside it."""

from __future__ import annotations

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
