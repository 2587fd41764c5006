"""What is drawn for a row: the conditions that it keeps, its noise level, and where it begins."""

from __future__ import annotations

from typing import Literal

import torch

from .config import ConditionSettings

Kept = Literal["none", "text", "dino", "both"]
KEPT: tuple[Kept, ...] = ("none", "text", "dino", "both")


def draw_kept(settings: ConditionSettings, *, generator: torch.Generator) -> Kept:
    """Which conditions a row keeps: none (the classifier-free case), the text, DINO's features, or both."""
    shares = torch.tensor([getattr(settings, kept) for kept in KEPT], dtype=torch.float64)
    at = torch.rand((), generator=generator, dtype=torch.float64) * shares.sum()
    return KEPT[min(int((shares.cumsum(0) <= at).sum()), len(KEPT) - 1)]


def draw_sigma(levels: tuple[float, float], *, sampling: str, generator: torch.Generator) -> float:
    """A noise level of a range: uniform, or the logistic of a normal number (arXiv 2403.03206, section 3.1)."""
    low, high = levels
    if sampling == "uniform":
        share = torch.rand((), generator=generator)
    else:
        share = torch.randn((), generator=generator).sigmoid()
    return float(low + (high - low) * share)


def draw_start(settings: ConditionSettings, *, generator: torch.Generator) -> float | None:
    """The noise level at which a row begins at the source; None where it is of the picture alone."""
    low, high = settings.start
    begins, share = torch.rand(2, generator=generator).tolist()
    return low + (high - low) * share if begins < settings.from_source else None
