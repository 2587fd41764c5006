"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Share = Callable[[float], None]  # how much of one piece of work is done, 0 to 1


class Progress(Protocol):
    """Called now and then with a stage's name, how much of how much is done, and a word about it. Raising cancels the work."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None: ...


def share_of(progress: Progress | None, stage: str) -> Share | None:
    """What tells of a stage that is one piece of work."""
    return None if progress is None else lambda share: progress(stage, share, 1)


def part_of(told: Share | None, number: int, count: int) -> Share | None:
    """What tells of one of ``count`` equal pieces, counted from 0, as a share of all of them."""
    return None if told is None else lambda share: told((number + share) / count)


def counted(items: Sequence[Item], stage: str, progress: Progress | None) -> Iterator[Item]:
    """The items, with progress before each and at the end."""
    for number, item in enumerate(items):
        if progress is not None:
            progress(stage, number, len(items))
        yield item
    if progress is not None:
        progress(stage, len(items), len(items))
