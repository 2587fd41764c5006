"""A result in the colours of its source, by rules that ask no model: what drawing did to light and colour goes, detail stays."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import cut
from .plan import Box, TilePlan
from .windows import tile_windows, window

ColorMatch = Literal["off", "wavelet", "adain", "adain_tiles"]
MATCHES: tuple[ColorMatch, ...] = get_args(ColorMatch)
OF_TILES = tuple(way for way in MATCHES if way != "adain")  # which measures the whole result
LEVELS = 5  # of the wavelet: what is coarser than some 2^LEVELS px is the source's
KERNEL = (0.25, 0.5, 0.25)
LEAST = 1e-4  # of a deviation: below it a channel is flat, and nothing can be stretched


def check_color_match(way: str) -> None:
    if way not in MATCHES:
        raise ValueError(f"color match {way!r} must be one of {', '.join(MATCHES)}: off is usual")


def match_color(result: Tensor, source: Tensor, *, way: ColorMatch, plan: TilePlan) -> Tensor:
    """Results [B, C, H, W] in 0..1 in the colours of the enlarged sources, of the same size.

    "wavelet": coarse light and colour are the source's, everywhere (the a-trous transform of Holschneider and others 1989, used
    so by StableSR, arXiv 2305.07015). "adain": mean and deviation of each channel are (arXiv 1703.06868), over the whole picture;
    "adain_tiles": over each tile of ``plan``, in px, which may reach beyond the picture; they fade into each other as tiles do.
    "off": the results, as they are.
    """
    check_color_match(way)
    if way == "off":
        return result
    if way == "wavelet":
        return torch.cat(
            [_coarse(source, result) for source, result in zip(source.split(1), result.split(1), strict=True)]
        )
    if way == "adain":
        scale, shift = _stretch(result, source)
        return (result * scale + shift).clamp_(0, 1)
    out = torch.zeros_like(result)
    for box, pair in zip(plan.boxes, tile_windows(plan), strict=True):
        seen = _inside(box, *result.shape[-2:])
        if seen.height > 0 and seen.width > 0:
            tile = cut(result, seen)
            scale, shift = _stretch(tile, cut(source, seen))
            weight = window(pair)[: seen.height, : seen.width].to(result)
            cut(out, seen).add_(weight * (tile * scale + shift))
    return out.clamp_(0, 1)


def _coarse(source: Tensor, result: Tensor) -> Tensor:
    """The result [1, C, H, W] with the source's coarse part. The transform is linear: that of the difference is the change."""
    return (result + smooth(source - result)).clamp_(0, 1)


def smooth(pixels: Tensor, levels: int = LEVELS) -> Tensor:
    """The coarse part of [B, C, H, W]: ``KERNEL`` along both axes, at each level twice as far apart; the border is repeated."""
    channels = pixels.shape[1]
    kernel = pixels.new_tensor(KERNEL).expand(channels, 1, -1)  # [C, 1, 3]
    for level in range(levels):
        far = 2**level
        for shape, pad in (((3, 1), (0, 0, far, far)), ((1, 3), (far, far, 0, 0))):
            padded = F.pad(pixels, pad, mode="replicate")
            pixels = F.conv2d(padded, kernel.view(channels, 1, *shape), dilation=far, groups=channels)
    return pixels


def _stretch(result: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and summand [B, C, 1, 1] that bring mean and deviation of each channel to the source's."""
    (own_std, own_mean), (std, mean) = (
        torch.std_mean(pixels, dim=(2, 3), keepdim=True, correction=0) for pixels in (result, source)
    )
    scale = torch.where(own_std > LEAST, std / own_std.clamp(min=LEAST), 1.0)
    return scale, mean - scale * own_mean


def _inside(box: Box, height: int, width: int) -> Box:
    """What of a tile lies in the picture."""
    return Box(box.top, box.left, min(box.bottom, height) - box.top, min(box.right, width) - box.left)
