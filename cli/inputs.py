"""Input pictures of the command line: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from ..files.kinds import SUFFIXES
from ..files.paths import expanded


def find_pictures(inputs: Iterable[str]) -> list[Path]:
    """The picture files that are named, in that order, each once. Of a folder all pictures in it, without its subfolders;
    of a pattern (``*.jpg``, ``**/*.png``), which a shell has not expanded, what it matches; by name. Raises ValueError."""
    found: dict[str, Path] = {}
    for given in inputs:
        for path in _named(given):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _named(given: str) -> list[Path]:
    if not given:
        raise ValueError("an input is empty text: give a picture, a folder or a pattern")
    path = expanded(given)
    if path.is_dir():
        paths = [inner for inner in sorted(path.iterdir()) if inner.suffix.lower() in SUFFIXES and inner.is_file()]
        paths = [inner for inner in paths if not inner.name.startswith(".")]
        if not paths:
            raise ValueError(f"folder {given} holds no picture ({', '.join(SUFFIXES)}): give another folder, or files")
        return paths
    if path.exists() or not glob.has_magic(given):
        return [path]
    paths = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    paths = [inner for inner in paths if inner.is_file()]
    if not paths:
        raise ValueError(f"no file matches {given}: give files, folders or another pattern")
    return paths
