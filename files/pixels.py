"""Pixels as tensors: check them, bring them to another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .errors import kind_of

SHAPE = 0.02  # by which the proportions of two pictures of the same may differ
LOW, HIGH = -0.5, 2.0  # what sharpening and bicubic enlargement may pass 0..1 by, the latter by 0.45 at most


def resize(pixels: Tensor, *, height: int, width: int) -> Tensor:
    """Bicubic with antialiasing, kept in 0..1, in floating point. pixels: [B, C, H, W]."""
    resized = resize_signed(pixels, height=height, width=width)
    return resized.clamp(0, 1) if resized is pixels else resized.clamp_(0, 1)  # the input is not ours to write to


def resize_signed(pixels: Tensor, *, height: int, width: int) -> Tensor:
    """The same for values of any range, such as differences of pictures."""
    if tuple(pixels.shape[2:]) == (height, width):
        return pixels
    pixels = pixels.contiguous()  # ComfyUI's are views of [B, H, W, C], which takes longer than to copy them
    return F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True, align_corners=False)


def proportional(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether two pictures have the same shape but for ``SHAPE``, or a side of the small one that was rounded."""
    (rows, columns), (height, width) = small, large
    return abs(rows * width - columns * height) <= max(SHAPE * rows * width, height, width)


def check_pixels(pixels: Tensor) -> None:
    """Refuse what is not a batch of colour pictures in 0..1: [B, 3, H, W], floating point, finite, but for
    what passes 0..1 a little."""
    if not isinstance(pixels, Tensor):
        raise ValueError(
            f"pixels are {kind_of(pixels)}, needed is a tensor [B, 3, H, W] in 0..1: take load_picture(path).pixels of a "
            "file, or torch.from_numpy(array).permute(2, 0, 1)[None] / 255 of an array [H, W, 3] of 8 bits"
        )
    shape = list(pixels.shape)
    if pixels.ndim != 4 or shape[1] != 3 or 0 in shape:
        raise ValueError(
            f"pixels have shape {shape}, needed is [B, 3, H, W] with no side 0: pass at least one RGB picture"
        )
    if not pixels.is_floating_point():
        raise ValueError(f"pixels are {pixels.dtype}, needed is floating point in 0..1: divide 8-bit pictures by 255")
    low, high = (float(value) for value in pixels.detach().aminmax())
    if not (low > -float("inf") and high < float("inf")):  # aminmax hands NaN on, which fails both comparisons
        raise ValueError(
            "pixels hold NaN or infinite values, all must be finite: repair the picture or decode it again"
        )
    if low < LOW or high > HIGH:
        raise ValueError(
            f"pixels lie in {low:g}..{high:g}, needed is 0..1: divide 8-bit pictures by 255, and take (pixels + 1) / 2 of "
            "what lies in -1..1"
        )
