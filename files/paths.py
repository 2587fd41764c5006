"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(text: str | os.PathLike[str]) -> Path:
    """With ``~`` as the home directory; ValueError for that of an unknown user."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{text} begins with the home of a user who is not known here: give the whole path") from error


def expanded_text(text: str) -> str:
    """As ``expanded``; whatever else it is, such as a slash at its end, which means a folder, or a hub name, stays."""
    if not text.startswith("~"):
        return text
    return f"{expanded(text)}{os.sep if text.endswith(('/', os.sep)) else ''}"
