"""What became of each picture of a long job, as JSON lines: a killed job goes on where it was.

A line is appended when a picture begins (``running``) and when it ends (``done`` or ``failed``); the last line about an output
counts. Nothing is ever rewritten, so that a kill can only cut the last line off.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any

from ..files.errors import reason
from ..files.fingerprints import file_fingerprint
from ..files.writing import check_writable, hold, same_file

START = b'{"dinotile": "'  # of every line: another file is never taken for a manifest
ROOM = 1024  # bytes of a line or two
DONE, FAILED, RUNNING = STATUSES = ("done", "failed", "running")


@dataclass(frozen=True, slots=True)
class Entry:
    """The last line about an output. input, settings: fingerprints. size: bytes of the output when it was last written, or 0;
    further: of files that were written beside it, by name. own: options that the picture had of its own, unchecked."""

    status: str
    source: str
    input: str
    settings: str
    size: int
    version: str
    own: dict[str, Any] = field(default_factory=dict)
    further: dict[str, int] = field(default_factory=dict)


@dataclass
class Manifest:
    """path: the file, which need not exist yet. entries: by output. whole: bytes of whole lines; cut: of half a line behind
    them. made_by: the version of DINOTile that makes the pictures. kept: jobs that are left
    out as done."""

    path: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    whole: int = 0
    cut: int = 0
    file: FileIO | None = None
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)
    made_by: str = field(default_factory=partial(version, "dinotile"))

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """What is there; nothing is changed. ValueError where it is no manifest."""
        manifest = cls(path)
        if not path.exists():
            return manifest
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    manifest._take(line, number)
        except OSError as error:
            raise ValueError(f"manifest {path} cannot be read ({reason(error)}): choose another name") from error
        return manifest

    def begin(self) -> None:
        """Open it for lines, without the half one. ValueError where another run writes it, or the disk is full."""
        try:
            self.file = self.path.open("ab", buffering=0)  # what a full disk did not take is not tried again
            if not hold(self.file) or self.path.stat().st_size != self.whole + self.cut:
                self.close()
                raise ValueError(
                    f"manifest {self.path} is being written by another run: wait for it, or choose another"
                )
            self.file.truncate(self.whole)
        except OSError as error:
            self.close()
            raise ValueError(
                f"manifest {self.path} cannot be written ({reason(error)}): choose another place"
            ) from error
        try:
            self._write(START + b" " * ROOM, synced=False)  # of which a kill leaves half a line
            self.file.truncate(self.whole)
        except ValueError:
            self.close()
            raise

    def note(self, source: Path, output: Path, status: str, **facts: Any) -> None:
        """Append a line. facts: what else it says; ``why``, ``input``, ``settings``, ``size``, ``further``, ``seconds``,
        ``where``, ``own``. Threads may do so at once."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        said = {"dinotile": self.made_by, "status": status, "output": named(output), "source": named(source)}
        said |= {name: value for name, value in facts.items() if value not in (None, "")}
        line = json.dumps({**said, "time": now}).encode() + b"\n"
        with self.lock:
            self._append(line, synced=status != RUNNING)

    def _append(self, line: bytes, *, synced: bool) -> None:
        self._write(line, synced=synced)
        self._take(line, 0)

    def _write(self, line: bytes, *, synced: bool) -> None:
        assert self.file is not None
        try:
            taken = self.file.write(line)
            if taken < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if synced:
                os.fsync(self.file.fileno())
        except OSError as error:
            with suppress(OSError):
                self.file.truncate(self.whole)  # so that the next line is one
            raise ValueError(
                f"manifest {self.path} cannot be written ({reason(error)}): make room, and go on"
            ) from error

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        self.file = None

    def owned(self, outputs: Iterable[Path]) -> set[Path]:
        """Of these outputs, and the files beside them, what this job may replace: as it was written, or cut short by a kill."""
        own = set[Path]()
        for output in outputs:
            entry = self.entries.get(named(output))
            if entry is not None:
                sizes = {output: entry.size} | {output.parent / name: size for name, size in entry.further.items()}
                whole = (path for path, size in sizes.items() if path.is_file() and path.stat().st_size == size)
                own |= {*sizes} if entry.status == RUNNING else {*whole}
        return own

    def left(self, jobs: Iterable[tuple[Path, Path]], settings: Callable[[Path], str]) -> list[tuple[Path, Path]]:
        """The jobs without those that are done, by the same settings, of an input that is unchanged. settings: of a source."""
        given = list(jobs)
        left = [(source, output) for source, output in given if not self._settled(source, output, settings(source))]
        self.kept = len(given) - len(left)
        return left

    def told(self, jobs: Sequence[tuple[Path, Path]], left: Sequence[tuple[Path, Path]]) -> str:
        """A sentence about where the job stands. jobs: all of them; left: what is still to do."""
        before = Counter(entry.status for _, output in left if (entry := self.entries.get(named(output))))
        words = {DONE: "changed since and done again", FAILED: "failed before", RUNNING: "cut short"}
        parts = [f"{before[status]} {word}" for status, word in words.items() if before[status]]
        said = f"{self.path}: {len(jobs) - len(left)} of {len(jobs)} pictures are done already"
        here, undone = self.made_by, {output for _, output in left}
        kept = [self.entries[named(output)] for _, output in jobs if output not in undone]
        others = sorted({entry.version for entry in kept} - {here})
        said += "".join(f", {part}" for part in parts)
        said += f"; of those some were made by DINOTile {', '.join(others)}, this is {here}" if others else ""
        return said + ("; its last line was cut short and is left out" if self.cut else "")

    def _settled(self, source: Path, output: Path, settings: str) -> bool:
        entry = self.entries.get(named(output))
        if entry is None or (entry.status, entry.settings, entry.source) != (DONE, settings, named(source)):
            return False
        if output not in self.owned([output]):
            return False
        try:
            return file_fingerprint(source) == entry.input
        except OSError:  # gone, or closed: whoever reads it tells
            return False

    def _take(self, line: bytes, number: int) -> None:
        if not line.endswith(b"\n") and line[: len(START)] == START[: len(line)]:
            self.cut = len(line)
            return
        try:
            said = json.loads(line) if line.startswith(START) else {}
            before = self.entries.get(said["output"])
            facts = said.get("input", ""), said.get("settings", "")
            size = said.get("size", before.size if before else 0)
            further = dict(before.further) if before else {}
            further |= {name: now for name, now in said.get("further", {}).items() if now or name not in further}
            entry = Entry(said["status"], said["source"], *facts, size, said["dinotile"], said.get("own", {}), further)
            fits = entry.status in STATUSES and all(isinstance(count, int) for count in (size, *further.values()))
            fits = fits and isinstance(said["output"], str) and isinstance(entry.own, dict)
            if not fits or not all(isinstance(text, str) for text in (entry.source, *facts, entry.version)):
                raise ValueError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"line {number} of {self.path} is none of a manifest of dinotile: choose another name, or remove that line"
            ) from error
        self.entries[said["output"]] = entry
        self.whole += len(line)


def check_manifest(path: Path, pictures: Iterable[Path], *, folder: Path | None, report: Path | None = None) -> None:
    """ValueError where none could be at ``path``. pictures: old and new. folder: of the results, which is made before a manifest
    in it."""
    check_writable(path, folder=folder, what="manifest")
    if any(same_file(path, other) for other in pictures) or (report and same_file(path, report)):
        raise ValueError(f"manifest {path} is also a picture or the report: choose another name, such as jobs.jsonl")


def named(path: Path) -> str:
    """A path as a manifest names it, wherever the command is started."""
    return os.path.abspath(path)
