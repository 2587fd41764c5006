"""What is random in a training row, and which picture it shows: decided by seed, step and place in the global batch only."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal

import torch

from ..core.config import OptimisationSettings
from .config import ConditionSettings

Case = Literal["none", "text", "dino", "both"]
CASES: tuple[Case, ...] = ("none", "text", "dino", "both")


def generator_for(*place: int | str) -> torch.Generator:
    """A generator of its own for every place, for example (seed, "row", step, slot)."""
    digest = hashlib.sha256(repr(place).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def draw_case(settings: ConditionSettings, *, generator: torch.Generator) -> Case:
    """Which conditions a row gets: the classifier-free case, the text, DINO's features, or both."""
    shares = torch.tensor([getattr(settings, case) for case in CASES], dtype=torch.float64)
    at = torch.rand((), generator=generator, dtype=torch.float64) * shares.sum()
    return CASES[min(int((shares.cumsum(0) <= at).sum()), len(CASES) - 1)]


def draw_sigma(settings: OptimisationSettings, *, generator: torch.Generator) -> float:
    """A noise level from the range: uniform, or the logistic of a normal number (arXiv 2403.03206, section 3.1)."""
    low, high = settings.sigma
    if settings.sigma_sampling == "uniform":
        share = torch.rand((), generator=generator)
    else:
        share = torch.randn((), generator=generator).sigmoid()
    return float(low + (high - low) * share)


def draw_start(settings: ConditionSettings, *, generator: torch.Generator) -> float | None:
    """The noise level at which a row begins at the source; None where it is of the picture alone."""
    low, high = settings.start
    begins, share = torch.rand(2, generator=generator).tolist()
    return low + (high - low) * share if begins < settings.from_source else None


def picture_at(position: int, *, count: int, seed: int) -> int:
    """The picture at a position of the endless sequence of epochs, each a shuffle of all ``count`` pictures."""
    epoch, place = divmod(position, count)
    return _shuffled(count, seed, epoch)[place]


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=generator_for(seed, "epoch", epoch)).tolist()
