"""Which tiles of a job were done again, and in what order, as each of them saw its neighbours as they were then."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ..files.writing import replacing

NAME = "redone.json"  # in a job's folder
HEAD = 4096  # most bytes of a tile's first line


def read_redone(job: Path) -> list[int] | None:
    """Numbers from 0, one for each time; None where they are not known any more."""
    try:
        found = json.loads((job / NAME).read_bytes())["redone"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    whole = isinstance(found, list) and all(type(tile) is int and tile >= 0 for tile in found)
    return found if whole else None


def write_redone(job: Path, redone: Sequence[int] | None, *, advice: str) -> None:
    with replacing(job / NAME, advice=advice) as part:
        part.write_text(json.dumps({"redone": redone}), encoding="utf-8")


def read_turns(tiles: Iterable[Path]) -> dict[int, int]:
    """How often each tile was done again, by its own first line; without those that are damaged, which their readers tell."""
    found = {}
    for path in tiles:
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError), path.open("rb") as file:
            found[int(path.stem)] = int(json.loads(file.readline(HEAD))["turn"])
    return found
