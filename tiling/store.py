"""Finished tiles on disk: each is there whole or not at all, for as long as what made it is the same.

A store is a folder, which any number of runs may share. Each job, known by the fingerprint of all that its tiles depend on, has
a folder in it, and each finished tile a file there: a line that says what it is, and the pixels. Files take their place by
renaming, so a process that is killed leaves what is whole, and parts under names that nobody reads. Only what a store made itself
is ever removed from its folder.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..files.errors import reason
from ..files.fingerprints import fingerprint_of
from ..files.kinds import MOST_STORED
from ..files.writing import OURS, abandoned, hold, make_folder, remove_abandoned, replacing
from .mark import UNWRITTEN, check_mark, is_new
from .redone import HEAD, NAME, read_redone, read_turns, write_redone

log = logging.getLogger("dinotile")
LOCK = "in-use"  # in a job's folder, which nothing without it is: held while a run works on it
TILE = ".tile"
TRIES = 100  # to have a folder that others remove


class TileStore:
    """The finished tiles of one job in a store's folder. damaged: those that were found so. short: where memory ended when tiles
    and those that they saw were made, of those that were taken from there or put there. closed: why nothing can be written there,
    where tiles are only read; or empty."""

    def __init__(self, folder: Path, job: str, *, most: float = MOST_STORED) -> None:
        """job: a fingerprint. most: GiB of the whole store; other jobs make room, those that were used longest ago first.
        ValueError for a folder that cannot be used."""
        _check_size(most)
        self.folder, self.job, self.most = folder, folder / job, most * 2**30
        self.damaged: list[int] = []
        self.short: dict[int, list[dict[str, str]]] = {}
        self.closed = ""
        make_folder(folder)
        check_mark(folder)
        self.lock = self._held()
        self.left = 0.0  # bytes that may be written before the store is measured again, as others write to it too
        try:
            if not self.closed:
                remove_abandoned(self.job, seconds=60)
                self.room()
        except BaseException:
            self.close()
            raise

    def get(self, tile: int) -> tuple[Tensor, int] | None:
        """A finished tile [3, h, w] in 16 bits, and the turn of its noise; None where it is not there, or damaged, which is
        told."""
        path = self._path(tile)
        try:
            with path.open("rb") as file:
                head, content = file.readline(HEAD), file.read()
            said = json.loads(head)
            levels = torch.frombuffer(bytearray(content), dtype=torch.uint16).reshape(said["shape"])
            if said["tile"] != tile or said["sum"] != _sum(tile, said["turn"], content):
                raise ValueError("its sum is another one")
            self.short[tile] = [dict(each) for each in said.get("short", ())]
            return levels, int(said["turn"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
            self.damaged.append(tile)
            log.warning("%s is damaged (%s): tile %d is done again", path, reason(error), tile + 1)
            return None

    def put(self, tile: int, levels: Tensor, *, turn: int = 0, short: Sequence[dict[str, str]] = ()) -> None:
        """short: where memory ended as it and those that it saw were made. ValueError where it cannot be written; what is there
        already stays whole."""
        content = levels.contiguous().numpy().tobytes()
        said = {"tile": tile, "turn": turn, "shape": list(levels.shape), "sum": _sum(tile, turn, content)}
        said |= {"short": list(short)} if short else {}
        self.left -= len(content)
        if self.left < 0:
            self.room(len(content))
        try:
            with replacing(self._path(tile), advice=UNWRITTEN) as part, part.open("wb") as file:
                hold(file)
                file.write(json.dumps(said).encode() + b"\n" + content)
                file.flush()
                os.fsync(file.fileno())
            self.turns[tile], self.short[tile] = turn, list(short)
        except ValueError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"store {self.folder} is full ({reason(cause)}): make room, or name a folder on another disk; its "
                "finished tiles stay"
            ) from error

    def check_open(self, tile: int) -> None:
        """ValueError where a tile that is to be made could not be kept."""
        if self.closed:
            raise ValueError(
                f"tile {tile + 1} is not finished in store {self.folder}, which cannot be written ({self.closed}): {UNWRITTEN}"
            )

    @property
    def redone(self) -> list[int] | None:
        """Numbers of the tiles that were done again, from 0, in their order, each as often; None where it is not known any more
        how tiles came to be as they are, or never was: early versions noted nothing."""
        redone = read_redone(self.job)
        if redone:
            last = self.get(redone[-1])
            if last is not None and last[1] == redone.count(redone[-1]) - 1:
                redone = redone[:-1]  # a run was killed before it had the tile
        if redone is not None and any(turn != redone.count(tile) for tile, turn in self.turns.items()):
            return None
        return redone

    @cached_property
    def turns(self) -> dict[int, int]:
        """The turns of the tiles that are there; read once, as tiles are done again by a run that is alone."""
        return read_turns(self.job.glob(f"*{TILE}"))

    def alone(self) -> None:
        """Have the job for this run only, until ``close``, as tiles change under it; ValueError where another works on it, and
        where it is only read."""
        if self.closed:
            raise ValueError(
                f"no tile of store {self.folder} can be done again, as it cannot be written ({self.closed}): {UNWRITTEN}"
            )
        if not hold(self.lock):
            raise ValueError(
                f"another run works on this picture's tiles in store {self.folder}: wait for it, and do tiles again then"
            )

    def redo(self, tile: int, levels: Tensor, *, turn: int, short: Sequence[dict[str, str]] = ()) -> None:
        """``put``, for a tile that was done again: that is noted first, so that a kill leaves a turn that is known as missing."""
        redone = self.redone
        if redone is not None:
            redone = [*redone, tile] if redone.count(tile) == turn - 1 else None
        write_redone(self.job, redone, advice=UNWRITTEN)
        self.put(tile, levels, turn=turn, short=short)

    def made(self, tile: int, sees: Sequence[int]) -> None:
        """Note that a tile was not there: made in sight of one that was done again, it is another than before."""
        redone = self.redone
        if redone and not {tile, *sees}.isdisjoint(redone):
            write_redone(self.job, None, advice=UNWRITTEN)

    def room(self, needed: int = 0) -> None:
        """Remove other jobs until the store has room for so many bytes more; ValueError where there is none."""
        jobs = {path: _size(path) for path in self.folder.iterdir() if os.path.exists(path / LOCK)}
        over = sum(jobs.values()) + needed - self.most
        for path in sorted(jobs, key=_used) if over > 0 else ():
            if over > 0 and path != self.job and _removed(path):
                over -= jobs[path]
        if over > 0:
            raise ValueError(
                f"the store {self.folder} holds {self.most / 2**30:.3g} GiB at most, and this picture's tiles need more: raise "
                "--store-size, or in ComfyUI leave keep empty"
            )
        self.left = -over / 2

    def close(self) -> None:
        self.lock.close()

    def _held(self) -> IO[str]:
        """The lock of the job's folder, which is there; another run may just have found it idle, and be removing it."""
        path = self.job / LOCK
        for _ in range(TRIES):
            make_folder(self.job)
            try:
                lock = self._opened(path)
                if not hold(lock, shared=True):
                    log.warning("%s is another run's alone, as tiles are done again: waiting for it", self.job)
                    hold(lock, shared=True, wait=True)
                if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    if not self.closed:
                        os.utime(self.job)  # also a run that finds all tiles there has used them
                    return lock
                lock.close()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ValueError(f"store {self.folder} cannot be written ({reason(error)}): {UNWRITTEN}") from error
        raise ValueError(f"store {self.folder} loses its folders while they are used: {UNWRITTEN}")

    def _opened(self, path: Path) -> IO[str]:
        """The lock, for reading alone where the job is there and the folder is not to be written."""
        try:
            return path.open("w")
        except FileNotFoundError:
            raise
        except OSError as error:
            with suppress(OSError):
                lock = path.open()
                self.closed = reason(error)
                return lock
            raise

    def _path(self, tile: int) -> Path:
        return self.job / f"{tile}{TILE}"


def _sum(tile: int, turn: int, content: bytes) -> str:
    return fingerprint_of([f"{tile} {turn} ".encode(), content])


def check_store(folder: Path, *, most: float = MOST_STORED) -> None:
    """ValueError, as of ``TileStore``, for a size, and for a folder that is there and no store; makes none."""
    _check_size(most)
    if folder.exists():
        is_new(folder)


def _check_size(most: float) -> None:
    if not most > 0:
        raise ValueError(f"store size {most:g} must be above 0, in GiB: usually {MOST_STORED:g}")


def _size(job: Path) -> int:
    total = 0
    with suppress(OSError):  # gone meanwhile
        for path in job.iterdir():
            with suppress(OSError):
                total += path.stat().st_size
    return total


def _used(job: Path) -> float:
    with suppress(OSError):
        return job.stat().st_mtime
    return 0.0


def _removed(job: Path) -> bool:
    """Remove a job's tiles, unless a run works on it; whether that was done. A run that begins meanwhile waits."""
    lock = job / LOCK
    if not abandoned(lock):
        return False
    with suppress(OSError), lock.open("r+") as held:
        if not hold(held):
            return False
        for path in job.iterdir():
            if path.suffix == TILE or path.name == NAME or OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        lock.unlink()  # the last, as it tells that this is a job
    with suppress(OSError):  # Windows removes no open file
        lock.unlink(missing_ok=True)
        job.rmdir()
    return not lock.exists()
