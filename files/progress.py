"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Progress(Protocol):
    """Called now and then with a stage's name, how much of how much is done, and a word about it. Raising cancels the work."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None: ...


def counted(items: Sequence[Item], stage: str, progress: Progress | None) -> Iterator[Item]:
    """The items, with progress before each and at the end."""
    for number, item in enumerate(items):
        if progress is not None:
            progress(stage, number, len(items))
        yield item
    if progress is not None:
        progress(stage, len(items), len(items))
