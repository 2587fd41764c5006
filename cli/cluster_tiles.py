"""The tiles of one picture as work for several workers of a cluster, which meet in its store."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

EACH = 2  # groups of a wave for each worker, so that a slow one is not waited for long

Step = Literal["waves", "tiles", "picture"]


@dataclass
class Job:
    """What a worker is asked to do for a picture. step: to say which tiles there are, to finish some of them in the store, or to
    do all that is not done. tiles: of the second. deaths: of workers at it."""

    source: Path
    output: Path
    step: Step = "picture"
    tiles: tuple[int, ...] = ()
    deaths: int = 0


@dataclass
class Shares:
    """The waves of a picture's tiles that are left, in groups, and how many groups of the present one are not finished.
    seconds: of all workers at them."""

    left: deque[list[tuple[int, ...]]]
    running: int = 0
    done: int = 0
    seconds: float = 0.0
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = sum(len(group) for wave in self.left for group in wave)

    @classmethod
    def of(cls, waves: Sequence[Sequence[int]], *, workers: int) -> Shares:
        return cls(deque(_groups(wave, EACH * workers) for wave in waves))

    def following(self) -> list[tuple[int, ...]]:
        """The groups of the next wave, where the last one is finished; none after the last, or while groups are not."""
        if self.running or not self.left:
            return []
        groups = self.left.popleft()
        self.running = len(groups)
        return groups

    def finished(self, group: Sequence[int], *, seconds: float) -> None:
        self.running -= 1
        self.done += len(group)
        self.seconds += seconds

    @property
    def over(self) -> bool:
        return not self.running and not self.left


def _groups(wave: Sequence[int], most: int) -> list[tuple[int, ...]]:
    size = -(-len(wave) // most)
    return [tuple(wave[first : first + size]) for first in range(0, len(wave), size)]
