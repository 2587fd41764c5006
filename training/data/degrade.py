"""The state in which an upscaler finds a picture: blurred, shrunk, noisy, compressed, and enlarged again."""

from __future__ import annotations

import io
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...files.pictures import from_image, to_image, upright
from ...files.pixels import resize
from ..core.config import Range
from .settings import DegradationSettings


def degrade(pixels: Tensor, settings: DegradationSettings, *, generator: torch.Generator, weak: bool = False) -> Tensor:
    """A worse copy of ``pixels`` [3, H, W] in 0..1 at the same size; ``weak`` takes the shrink factor of the weak case.

    Order: Gaussian blur, shrink, Gaussian noise, JPEG, enlarge.
    """
    height, width = pixels.shape[-2:]
    factor = _draw(settings.weak_scale if weak else settings.scale, generator, logarithmic=True)
    sigma, amount, quality = (_draw(range_, generator) for range_ in (settings.blur, settings.noise, settings.jpeg))
    out = blur(pixels[None].float(), sigma=sigma)
    out = resize(out, height=max(1, round(height / factor)), width=max(1, round(width / factor)))
    out = (out + amount * torch.randn(out.shape, generator=generator)).clamp(0, 1)
    return resize(compressed(out, quality=round(quality)), height=height, width=width)[0].clamp(0, 1)


def _draw(range_: Range[float], generator: torch.Generator, *, logarithmic: bool = False) -> float:
    low, high = range_
    share = float(torch.rand((), generator=generator))
    return low * (high / low) ** share if logarithmic else low + (high - low) * share


def blur(pixels: Tensor, *, sigma: float) -> Tensor:
    """Gaussian of ``sigma`` px, reflected at the border; pixels [1, 3, H, W]."""
    radius = min(math.ceil(3 * sigma), min(pixels.shape[-2:]) - 1)
    if sigma < 0.1 or radius < 1:
        return pixels
    at = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-at.square() / (2 * sigma**2))
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    padded = F.pad(pixels, (radius, radius, radius, radius), mode="reflect")
    return F.conv2d(F.conv2d(padded, weights, groups=3), weights.mT, groups=3)


def compressed(pixels: Tensor, *, quality: int) -> Tensor:
    """Through JPEG; pixels [1, 3, H, W]."""
    content = io.BytesIO()
    to_image(pixels).save(content, format="JPEG", quality=quality)
    return from_image(upright(content)).pixels
