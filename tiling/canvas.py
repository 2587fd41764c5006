"""The picture before it is tiled: exact size, whole grid cells."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .plan import LARGEST, SMALLEST, Box, canvas_size


def scaled_size(height: int, width: int, *, scale: float) -> tuple[int, int]:
    """Output size of an upscale, exact to the pixel: round(side * scale), at least 1."""
    if not SMALLEST <= scale <= LARGEST:  # also refuses NaN
        raise ValueError(
            f"scale {scale} must be from {SMALLEST:g} to {LARGEST:g}: 2 doubles both sides, usually 2 to 4"
        )
    return max(1, round(height * scale)), max(1, round(width * scale))


def pad_to_grid(pixels: Tensor, *, grid: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of ``grid``. pixels: [B, C, H, W]."""
    height, width = pixels.shape[2:]
    canvas_height, canvas_width = canvas_size(height, width, grid=grid)
    if (canvas_height, canvas_width) == (height, width):
        return pixels
    return F.pad(pixels, (0, canvas_width - width, 0, canvas_height - height), mode="replicate")


def cut(canvas: Tensor, box: Box) -> Tensor:
    """A box of a canvas [..., H, W], as a view."""
    return canvas[..., box.top : box.bottom, box.left : box.right]
