"""Writing files and folders whole or not at all."""

from __future__ import annotations

import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from safetensors import SafetensorError

from .errors import reason
from .kinds import LONGEST_SIDE

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

DAY = 86_400  # seconds
PART = ".part"
OURS = re.compile(rf"\..*\.[0-9a-f]{{8}}{re.escape(PART)}", re.DOTALL)  # names that _part_of gives


@contextmanager
def replacing(path: Path, *, advice: str = "make room or choose another place") -> Iterator[Path]:
    """``with replacing(path) as part``: write ``part`` beside ``path``, a file or a folder; it takes its place on success only.

    After any error ``path`` is as it was and nothing else is left. What the system refuses is a ValueError with ``advice``.
    """
    if OURS.fullmatch(path.parent.name):  # a folder that is written itself, and takes its place or goes as a whole
        yield path
        return
    part = _part_of(path)
    try:
        yield part
        if part.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"output {path} cannot be written ({reason(error)}): {advice}") from error
    finally:
        _remove(part)


def write_text(path: Path, text: str) -> None:
    """The text as UTF-8, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def remove_parts(folder: Path, pattern: str) -> None:
    """Remove what killed processes left of files or folders whose names match the pattern."""
    for part in folder.glob(f".{pattern}.*{PART}"):
        _remove(part)


def hold(file: IO[Any], *, shared: bool = False, wait: bool = False) -> bool:
    """Mark an open file as in use until it is closed or the process ends, however that is; False where another holds it.
    shared: by any number of them. wait: until nobody else holds it."""
    if fcntl is not None:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True


def abandoned(path: Path, *, seconds: float = 0) -> bool:
    """Whether nobody holds the file and it has not been written for so long; without locks, for a day."""
    try:
        still = time.time() - path.stat().st_mtime
        with path.open("rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return still >= seconds
    except BlockingIOError:
        return False
    except OSError:
        pass
    return path.exists() and still >= DAY


def abandoned_parts(path: Path, *, seconds: float = 0) -> list[Path]:
    """What killed processes left of the file ``path``, the longest last."""
    found = path.parent.glob(f".{glob.escape(path.name[:50])}.*{PART}")
    parts = [part for part in found if OURS.fullmatch(part.name) and part.is_file()]
    return sorted((part for part in parts if abandoned(part, seconds=seconds)), key=lambda part: part.stat().st_size)


def remove_abandoned(folder: Path, *, seconds: float) -> None:
    """Remove what killed processes left of files anywhere in a folder."""
    for part in folder.rglob(f".*{PART}"):
        if OURS.fullmatch(part.name) and part.is_file() and abandoned(part, seconds=seconds):
            with suppress(OSError):  # a disk that may only be read
                part.unlink()


def check_writable(path: Path, *, folder: Path | None = None, what: str = "output") -> None:
    """Raise ValueError where the file ``path`` could not be created or replaced. folder: made before, with its parents. what: it
    is called."""
    if path.is_dir():
        raise ValueError(f"{what} {path} is a folder: give the path of a file")
    if not path.parent.is_dir():
        if folder is not None and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(path.parent)):
            return check_folder(folder)
        raise ValueError(f"the folder {path.parent} of {what} {path.name} does not exist: create it first")
    _try(_part_of(path), what=f"{what} {path} cannot be written")


def check_picture_output(path: Path, *, height: int = 1, width: int = 1, folder: Path | None = None) -> None:
    """As ``check_writable``, for a picture of this size; writes nothing that stays."""
    suffix = path.suffix.lower()
    if suffix not in LONGEST_SIDE:
        raise ValueError(f"output {path} ends in {suffix or 'nothing'}: end it in {', '.join(sorted(LONGEST_SIDE))}")
    if max(height, width) > LONGEST_SIDE[suffix]:
        raise ValueError(f"{width} x {height} px does not fit in a {suffix} file: write a .png")
    check_writable(path, folder=folder)


def check_folder(folder: Path) -> None:
    """Raise ValueError where files could not be written to the folder, which need not be there; writes nothing that stays."""
    place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not place.is_dir():
        raise ValueError(f"folder {folder} cannot be made ({place} is a file): choose another place")
    _try(_part_of(place / "try"), what=f"folder {folder} cannot be {'written' if folder.is_dir() else 'made'}")


def make_folder(folder: Path) -> None:
    """With its parents, where it is not there yet; ValueError where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"folder {folder} cannot be made ({reason(error)}): choose another place") from error


def same_file(path: Path, other: Path) -> bool:
    """Whether both names lead to one file, which need not exist yet."""
    same = os.path.realpath(path) == os.path.realpath(other)  # Path.resolve breaks on links that lead to themselves
    return same or (path.exists() and other.exists() and path.samefile(other))


def _try(part: Path, *, what: str) -> None:
    try:
        part.touch(exist_ok=False)
        part.unlink()
    except OSError as error:
        raise ValueError(f"{what} ({reason(error)}): choose another place") from error


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name[:50]}.{uuid4().hex[:8]}{PART}")  # short enough for any name that is


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    with suppress(OSError):  # it is not there
        part.unlink()
