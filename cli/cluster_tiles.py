"""The tiles of one picture as work for several workers of a cluster, which meet in its store."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .cluster_worker import Outcome

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
    seconds: of all workers at them. finds: what they found, with the tiles that they were asked for."""

    left: deque[list[tuple[int, ...]]]
    running: int = 0
    done: int = 0
    seconds: float = 0.0
    finds: list[tuple[Sequence[int], Outcome]] = field(default_factory=list)
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

    def finished(self, group: Sequence[int], outcome: Outcome) -> None:
        self.running -= 1
        self.done += len(group)
        self.seconds += outcome.seconds
        self.finds.append((group, outcome))

    def whole(self, last: Outcome) -> dict[str, Any]:
        """The report of all workers, of whom the last put the rows together: tiles from the store are those that were there
        before any of them, and seconds are those of all."""
        outcomes = [*(outcome for _, outcome in self.finds), last]
        kept, seconds, peaks = [each.report["kept"] for each in outcomes], dict[str, float](), dict[str, int | None]()
        asked = [{tile + 1 for tile in group} & set(found.report["kept"]["reused"]) for group, found in self.finds]
        for each in outcomes:
            for stage, spent in each.report["seconds"].items():
                seconds[stage] = round(seconds.get(stage, 0.0) + spent, 3)
        for name in last.report["peak_memory"]:
            known = [peak for each in outcomes if (peak := each.report["peak_memory"][name]) is not None]
            peaks[name] = max(known, default=None)
        whole = {
            "reused": sorted(set[int]().union(*asked)),
            "redone": kept[-1]["redone"],
            "damaged": sorted({tile for each in kept for tile in each["damaged"]}),
            "sampled": sum(each["sampled"] for each in kept),
        }
        return last.report | {
            "kept": whole,
            "seconds": seconds,
            "peak_memory": peaks,
            "out_of_memory": [told for each in outcomes for told in each.report["out_of_memory"]],
            "workers": len({each.where for each in outcomes}),
        }

    @property
    def over(self) -> bool:
        return not self.running and not self.left


def _groups(wave: Sequence[int], most: int) -> list[tuple[int, ...]]:
    size = -(-len(wave) // most)
    return [tuple(wave[first : first + size]) for first in range(0, len(wave), size)]
