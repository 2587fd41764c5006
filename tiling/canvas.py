"""The picture before it is tiled: exact size, whole grid cells."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .plan import canvas_size


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Output size of an upscale, exact to the pixel: round(side * scale), at least 1."""
    check_scale(scale)
    return max(1, round(height * scale)), max(1, round(width * scale))


def check_scale(scale: float) -> None:
    if not 0.1 <= scale <= 16:  # also refuses NaN
        raise ValueError(f"scale {scale} must be from 0.1 to 16: usually 2 to 4")


def pad_to_grid(pixels: Tensor, *, grid: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of ``grid``. pixels: [B, C, H, W]."""
    height, width = pixels.shape[2:]
    canvas_height, canvas_width = canvas_size(height, width, grid=grid)
    return F.pad(pixels, (0, canvas_width - width, 0, canvas_height - height), mode="replicate")
