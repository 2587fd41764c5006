"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then with a stage's name, how much of how much is done, and a word about it. Raising cancels the work."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None: ...
