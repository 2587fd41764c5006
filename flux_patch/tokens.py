"""DINO features after the adapter's projection: what FLUX's blocks attend to, still in the picture's own layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..dino.feature_map import sample_grid


@dataclass(frozen=True, eq=False)
class DinoTokens:
    """Tokens of a batch of pictures. ``FeatureMap`` holds the features that they were made of."""

    patches: Tensor  # [B, h, w, C]
    cls: Tensor  # [B, C]

    def __repr__(self) -> str:
        return f"DinoTokens(patches {list(self.patches.shape)}, cls {list(self.cls.shape)})"

    def __len__(self) -> int:
        return len(self.patches)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> DinoTokens:
        return DinoTokens(self.patches.to(device, dtype), self.cls.to(device, dtype))

    def sequence(self, image: int, box: tuple[float, float, float, float], grid: int) -> Tensor:
        """[CLS | patches] of a region (top, left, height, width as fractions) of one picture, [1 + grid^2, C]."""
        image %= len(self)
        patches = sample_grid(self.patches[image, None], [box], grid)[0, 0]  # [grid, grid, C]
        return torch.cat([self.cls[image, None], patches.flatten(0, 1)])
