"""Paths that begin with ``~``: a shell writes the home folder out at the beginning of a word only, not in ``--output=~/x``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from ..files.paths import expanded


def at_home(command: Callable[..., None]) -> Callable[..., None]:
    """The command, whose paths then lead to the home folder. Options that are text it expands itself."""

    @wraps(command)
    def run(**options: Any) -> None:
        command(**{name: expanded(it) if isinstance(it, Path) else it for name, it in options.items()})

    return run
