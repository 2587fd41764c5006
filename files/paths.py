"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import kind_of


def path_of(given: object, *, what: str, do: str = "give the path of a file") -> Path:
    """``given`` as a path; ValueError where it is none. do: what is wanted of the caller instead."""
    if not isinstance(given, (str, os.PathLike)):
        raise ValueError(f"{what} is {kind_of(given)}, needed is a path, as text or Path: {do}")
    return Path(given)


def expanded(text: str | os.PathLike[str]) -> Path:
    """With ``~`` as the home directory; ValueError for that of an unknown user, and for what is no path."""
    try:
        return path_of(text, what="what was given as a path").expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text} begins with the home of a user who is not known here: give the whole path") from error


def expanded_text(text: str) -> str:
    """As ``expanded``; whatever else it is, such as a slash at its end, which means a folder, or a hub name, stays."""
    if not text.startswith("~"):
        return text
    return f"{expanded(text)}{os.sep if text.endswith(('/', os.sep)) else ''}"
