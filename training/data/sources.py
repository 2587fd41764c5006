"""Where the members of a training sample lie: files of a folder, or byte ranges of tar files."""

from __future__ import annotations

import glob
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path

from ...files.errors import BROKEN, printable, reason
from ...files.kinds import LONGEST_SIDE
from ...files.paths import expanded_text
from .sample import Unusable
from .side_files import TEXT_FILES, TEXT_MASK, compressed_files, feature_files, plain_cls

PICTURES = tuple(suffix[1:] for suffix in LONGEST_SIDE)  # as photographs are kept, which BMP and GIF are not for
FEATURES = [
    name
    for family in ("dinov2", "dinov3")
    for name in (*feature_files(family), compressed_files(family)[0], plain_cls(family))
]
SIDE_FILES = (*FEATURES, *TEXT_FILES, TEXT_MASK, "source.png", "txt")


@dataclass(frozen=True)
class Member:
    """``size`` bytes from ``offset`` of a file; size None is all of it."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Raises ``Unusable``, also for a pipe, which would be waited for, and for less than ``size``."""
        try:
            state = self.path.stat()
            length = state.st_size - self.offset if self.size is None else self.size
            if stat.S_ISREG(state.st_mode) and self.offset + length <= state.st_size:
                with self.path.open("rb") as file:
                    file.seek(self.offset)
                    return file.read(length)
        except OSError:
            pass
        raise Unusable("unreadable file")

    def state(self) -> tuple[int, int]:
        """Size in bytes and time of the last change; zeros where there is no file."""
        try:
            state = self.path.stat()
        except OSError:
            return 0, 0
        return self.size or state.st_size, state.st_mtime_ns


@dataclass(frozen=True)
class Entry:
    """The members of one sample by ending, such as "jpg" or "dinov2_patches.npy".

    stem: the path, without an ending, that all members of a folder's sample share; None in a tar.
    """

    name: str
    members: Mapping[str, Member]
    stem: Path | None = None

    def picture(self) -> Member:
        """Raises ``Unusable`` where the sample has none."""
        for ending in PICTURES:
            if ending in self.members:
                return self.members[ending]
        raise Unusable("without a picture")


def find_entries(path: str | Path | Sequence[str | Path]) -> list[Entry]:
    """The samples of a folder of pictures, or of tar files (one, a list, a glob, braces as in ``{000..009}.tar``).

    A folder is read with its subfolders, in the order of the names; tars by WebDataset's naming: members of one stem,
    the name up to the first dot, are one sample. ValueError where there is nothing to read.
    """
    paths = find_paths(path)
    entries = [entry for path in paths for entry in entries_of(path)]
    if not entries:
        raise ValueError(
            f"there are no samples in {', '.join(map(str, paths))}, needed are pictures ({', '.join(PICTURES)}) or tar "
            "files of such: check the path"
        )
    return entries


def listing(entries: Sequence[Entry]) -> list[tuple[str, str, int, int, int]]:
    """Names, members, places, sizes and times of samples: what changes when one is added, removed or written anew."""
    return [
        (entry.name, ending, member.offset, *member.state())
        for entry in entries
        for ending, member in sorted(entry.members.items())
    ]


def find_paths(path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The folders and tar files that ``path`` names, globs and braces expanded; ValueError for anything else."""
    given = [path] if isinstance(path, (str, Path)) else path
    paths = [place for one in given for place in _expanded(str(one))]
    if not paths:
        raise ValueError("no data is named: give a folder of pictures, tar files or a glob of them")
    for place in paths:
        if not place.exists():
            raise ValueError(f"there is no data at {place}: give a folder of pictures, tar files or a glob of them")
        if not place.is_dir() and not (place.is_file() and place.suffix == ".tar"):
            raise ValueError(
                f"data {place.name} is neither a folder nor a .tar file (compressed tars cannot be read at random): "
                "give a folder of pictures or uncompressed tars"
            )
    return paths


def check_apart(folder: Path, path: str | Path | Sequence[str | Path], *, advice: str) -> None:
    """ValueError where pictures that are written to ``folder`` would be samples of the data ``path``."""
    for place in find_paths(path):
        if place.is_dir() and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(place)):
            raise ValueError(f"pictures in {folder} would be samples of the data in {place}: {advice}")


def entries_of(path: Path) -> list[Entry]:
    """The samples of one folder or one tar file."""
    return list(_folder(path) if path.is_dir() else _tar(path))


def _expanded(text: str) -> list[Path]:
    text = expanded_text(text)
    if not text or Path(text).exists():
        return [Path(text)] if text else []
    parts = [text]
    if "{" in text:  # as WebDataset reads it: a-{00..09}.tar is a-00.tar, a-01.tar, ...
        require_webdataset()
        from braceexpand import braceexpand

        parts = list(braceexpand(text))
    return [Path(name) for part in parts for name in sorted(glob.glob(part)) or [part]]


def require_webdataset() -> None:
    if find_spec("webdataset") is None:
        raise ValueError('tar files need webdataset: pip install "dinotile[train]", or give a folder of pictures')


def _folder(folder: Path) -> Iterator[Entry]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        known = set(names)
        for name in sorted(names):
            stem, dot, ending = name.rpartition(".")
            if not dot or not stem or ending.lower() not in PICTURES or stem.endswith(".source"):
                continue
            path = Path(place, name)
            members = {ending.lower(): Member(path)}
            for side in SIDE_FILES:
                if f"{stem}.{side}" in known:
                    members[side] = Member(path.with_name(f"{stem}.{side}"))
            yield Entry(path.relative_to(folder).as_posix(), members, path.with_name(stem))


def cut_tar(path: Path, *, stem: str) -> list[Entry]:
    """The samples in what a killed run left of the tar of this stem; its last may lack members, and is left out."""
    infos = []
    with suppress(*BROKEN, tarfile.TarError, OSError):
        for info in _files(path):
            infos.append(info)
    return list(_samples(path, infos, stem=stem))[:-1]


def _tar(path: Path) -> Iterator[Entry]:
    try:
        infos = list(_files(path))
    except (*BROKEN, tarfile.TarError, OSError) as error:
        raise ValueError(
            f"{path.name} is not a whole tar file ({reason(error)}): write or download it again"
        ) from error
    return _samples(path, infos, stem=path.stem)


def _samples(path: Path, infos: Sequence[tarfile.TarInfo], *, stem: str) -> Iterator[Entry]:
    require_webdataset()
    from webdataset.tariterators import group_by_keys

    members = (
        {"fname": info.name, "data": Member(path, info.offset_data, info.size), "__url__": str(path)} for info in infos
    )
    try:
        groups = list(group_by_keys(members))
    except ValueError as error:
        raise ValueError(f"{path.name} names a member twice ({printable(error.args[0])}): write it again") from error
    for group in groups:
        members = {ending: member for ending, member in group.items() if isinstance(member, Member)}
        yield Entry(f"{stem}/{group['__key__']}", members)


def _files(path: Path) -> Iterator[tarfile.TarInfo]:
    """The files in a tar, each as long as it says; raises what tarfile does, and ReadError.

    It is mapped, so that no length takes memory that is only claimed.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        with tarfile.open(fileobj=content, mode="r:") as archive:  # type: ignore[call-overload]
            for info in archive:
                beyond = info.isfile() and info.offset_data + info.size > len(content)
                if info.size < 0 or beyond or info.issparse():
                    raise tarfile.ReadError(f"{info.name} claims {info.size} bytes, or is sparse")
                if info.isfile():
                    yield info
