"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears of every stage: ``done`` of ``total``, and a ``note`` about it. What it raises ends the work."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None: ...
