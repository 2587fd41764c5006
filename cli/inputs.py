"""Input pictures of the command line: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from ..files.kinds import SUFFIXES
from ..files.paths import expanded


def find_pictures(inputs: Iterable[str], *, besides: Collection[Path] = ()) -> list[Path]:
    """The picture files that are named, in that order, each once. Of a folder all pictures in it, without its subfolders;
    of a pattern (``*.jpg``, ``**/*.png``), which a shell has not expanded, what it matches ``besides`` these; by name. Raises
    ValueError."""
    found: dict[str, Path] = {}
    for given in inputs:
        for path in _named(given, besides):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def matched(given: str, *, besides: Collection[Path] = ()) -> list[Path] | None:
    """The files that a pattern matches besides these, by name; None where it is the name of a path. ValueError where it matches
    nothing but these."""
    path = expanded(given)
    if path.exists() or not glob.has_magic(given):
        return None
    paths = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    paths, own = [inner for inner in paths if inner.is_file()], {os.path.realpath(each) for each in besides}
    found = [inner for inner in paths if not own or os.path.realpath(inner) not in own]
    if paths and not found:
        raise ValueError(f"{given} matches nothing but what the command itself writes, {paths[0]}: name that file")
    return found


def _named(given: str, besides: Collection[Path]) -> list[Path]:
    if not given:
        raise ValueError("an input is empty text: give a picture, a folder or a pattern")
    path = expanded(given)
    if path.is_dir():
        paths = [inner for inner in sorted(path.iterdir()) if inner.suffix.lower() in SUFFIXES and inner.is_file()]
        paths = [inner for inner in paths if not inner.name.startswith(".")]
        if not paths:
            raise ValueError(f"folder {given} holds no picture ({', '.join(SUFFIXES)}): give another folder, or files")
        return paths
    found = matched(given, besides=besides)
    if found is None:
        return [path]
    if not found:
        raise ValueError(f"no file matches {given}: give files, folders or another pattern")
    return found
