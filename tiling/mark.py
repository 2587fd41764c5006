"""The folder of a store, known by the mark in it: another is never taken for one, nor one of another version."""

from __future__ import annotations

import json
from pathlib import Path

from ..files.errors import reason
from ..files.writing import OURS, replacing

VERSION = 1
MARK = "dinotile-tiles.json"  # in the folder, with the version
UNWRITTEN = "finished tiles are kept there: name another folder for the store, or none"


def check_mark(folder: Path) -> None:
    """ValueError for the store of another version; a new or empty folder becomes one of this."""
    if is_new(folder):
        with replacing(folder / MARK, advice=UNWRITTEN) as part:
            part.write_text(json.dumps({"version": VERSION}), encoding="utf-8")


def is_new(folder: Path) -> bool:
    """Whether it is an empty folder, and no store of this version; ValueError where it is neither."""
    mark = folder / MARK
    try:
        others = [path for path in folder.iterdir() if not OURS.fullmatch(path.name)]
        new = not mark.exists()  # looked for after the others, as two runs may begin at once
        content = b"" if new else mark.read_bytes()
    except OSError as error:
        raise ValueError(f"store {folder} cannot be read ({reason(error)}): {UNWRITTEN}") from error
    if new and others:
        raise ValueError(f"folder {folder} holds other files, and no finished tiles: name an empty one for the store")
    if new:
        return True
    try:
        version = json.loads(content)["version"]
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{mark} is damaged: remove the folder, or name another one for the store") from error
    if version != VERSION:
        raise ValueError(
            f"store {folder} is of version {version}, this DINOTile writes {VERSION}: name another folder for the store"
        )
    return False
