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
    shared: Tensor | None = None  # [B, T, C], which every region gets whole

    def __repr__(self) -> str:
        return f"DinoTokens(patches {list(self.patches.shape)}, cls {list(self.cls.shape)})"

    def __len__(self) -> int:
        return len(self.patches)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> DinoTokens:
        shared = None if self.shared is None else self.shared.to(device, dtype)
        return DinoTokens(self.patches.to(device, dtype), self.cls.to(device, dtype), shared)

    def sequence(self, image: int, box: tuple[float, float, float, float], grid: int) -> Tensor:
        """[CLS | patches | shared] of a region (top, left, height, width as fractions) of one picture, [1 + grid^2 + T, C]."""
        image %= len(self)
        patches = sample_grid(self.patches[image, None], [box], grid)[0, 0]  # [grid, grid, C]
        parts = [self.cls[image, None], patches.flatten(0, 1)]
        return torch.cat(parts if self.shared is None else [*parts, self.shared[image]])
