"""What is random in a run is decided by a seed and a place in it, and by nothing that came before."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch


def generator_for(*place: int | str) -> torch.Generator:
    """A generator of its own for every place, for example (seed, "row", step, slot)."""
    digest = hashlib.sha256(repr(place).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def item_at(position: int, *, count: int, seed: int) -> int:
    """The item at a position of the endless sequence of epochs, each a shuffle of all ``count`` items."""
    epoch, place = divmod(position, count)
    return _shuffled(count, seed, epoch)[place]


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(count, generator=generator_for(seed, "epoch", epoch)).tolist()
