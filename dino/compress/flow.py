"""Flow matching on latents: noise levels, what is learned, and how it is sampled (arXiv 2210.02747)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .dit import LatentDit
from .statistics import Statistics

PLAIN = 4096  # numbers of a picture for which levels are not shifted


def shift_of(tokens: int, features: int) -> float:
    """By which levels of latents with so many numbers are shifted: the square root of their number over 4096 (RAE's rule)."""
    return math.sqrt(tokens * features / PLAIN)


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Levels in 0..1, nearer to 1 (noise) for a shift above 1, with both ends where they are."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def noisy(latents: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled latents [B, T, F] at levels [B], and the velocity noise - latents that the network learns."""
    at = sigma[:, None, None]
    return (1 - at) * latents + at * noise, noise - latents


@torch.no_grad()
def sample(
    model: LatentDit,
    statistics: Statistics,
    *,
    labels: Tensor,
    noise: Tensor,
    steps: int = 50,
    guidance: float = 1.0,
) -> Tensor:
    """Latents [B, T, F] of classes ``labels`` [B] from ``noise`` [B, T, F]: Euler from level 1 to 0.

    guidance: v = v_none + guidance (v_class - v_none), 1 is none; usually 1 to 4. ValueError for fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps {steps} must be at least 1: usually 50")
    config, x = model.config, noise
    levels = shifted(torch.linspace(1, 0, steps + 1), shift_of(config.tokens, config.features)).tolist()
    none = torch.full_like(labels, model.no_class)
    for level, following in zip(levels[:-1], levels[1:], strict=True):
        sigma = torch.full((len(x),), level, device=x.device)
        velocity = model(x, sigma, labels)
        if guidance != 1:
            free = model(x, sigma, none)
            velocity = free + guidance * (velocity - free)
        x = x + (following - level) * velocity
    return statistics.unscaled(x)
