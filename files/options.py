"""Options that act together with others only."""

from __future__ import annotations

from collections.abc import Container


def check_acting(given: Container[str], *rules: tuple[str, bool, tuple[str, ...]]) -> None:
    """ValueError where an option was given and would do nothing. rules: what options act with, whether it is so, and their
    names; they are told in that order."""
    for need, met, names in rules:
        for name in names:
            if name in given and not met:
                raise ValueError(f"{name} acts {need} only: see to that, or leave {name} out")
