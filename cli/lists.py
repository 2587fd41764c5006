"""Pictures named in a file, a line each: a list that a person wrote, or the manifest of an earlier job."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..files.errors import printable, reason
from ..files.paths import expanded
from ..upscaling.limits import LIMITS
from .inputs import find_pictures, matched
from .manifest import START, STATUSES, Manifest

ENDING = ".jsonl"
SOURCE, OUTPUT, PROMPT = "source", "output", "prompt"
OWN: dict[str, tuple[type, ...]] = {"seed": (int,), "denoise": (int, float), PROMPT: (str,)}  # options of one picture
KINDS = {
    SOURCE: "a path",
    OUTPUT: "the name of a file",
    "seed": "a whole number",
    "denoise": "a number",
    PROMPT: "text",
}
FORM = 'write {"source": "photo.jpg"} on a line for each picture'


@dataclass(frozen=True)
class Listed:
    """A picture; name: of its result in the folder, or empty; own: options that are its own; where: it was named. chosen:
    whether a person chose the name."""

    source: Path
    name: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""
    chosen: bool = False


class NoStatuses(ValueError):
    """A file has none to choose from."""


def find_listed(
    inputs: Iterable[str], *, only: str | None = None, own: Collection[str] = OWN, besides: Collection[Path] = ()
) -> list[Listed]:
    """As ``find_pictures``, where a file that ends in .jsonl is a list. only: pictures of manifests with that status, and of
    nothing else. own: the options that lists may have. Raises ValueError, with the number of the line."""
    if only is not None and only not in STATUSES:
        raise ValueError(f"--only {only} is no status of a manifest: give {', '.join(STATUSES[:-1])} or {STATUSES[-1]}")
    found: dict[str, Listed] = {}
    for given in inputs:
        lists = lists_of([given], besides=besides)
        if not lists:
            path = expanded(given) if given.lower().endswith(ENDING) else None
            if only is not None and path is not None and not path.exists():
                gone = f"no file matches {given}" if glob.has_magic(given) else f"{path} is not there"
                raise ValueError(f"--only {only} chooses from a manifest, and {gone}: give one that is there")
            if only is not None:
                raise ValueError(
                    f"--only {only} chooses from a manifest, and {given or 'empty text'} is none: give {ENDING} files"
                )
            for picture in find_pictures([given], besides=besides):
                found.setdefault(os.path.realpath(picture), Listed(picture))
            continue
        for each in _of_lists(lists, only=only, own=own):
            before = found.setdefault(os.path.realpath(each.source), each)
            if before is not each and (before.own or each.own or before.name != each.name):
                first = f"as {before.where} did" if before.where else "as an input did"
                raise ValueError(f"{each.where} names {each.source} once more, {first}: name each picture once")
    return list(found.values())


def lists_of(inputs: Iterable[str], *, besides: Collection[Path] = ()) -> list[Path]:
    """The lists among inputs; of a pattern that ends as a list does (``lists/*.jsonl``) those that it matches besides these, by
    name."""
    found = []
    for given in (each for each in inputs if each.lower().endswith(ENDING)):
        paths = matched(given, besides=besides)
        found += [expanded(given)] if paths is None else paths
    return [path for path in found if path.is_file()]


def own_files(manifest: Path | None, report: Path | None = None) -> list[Path]:
    """Files of a job that no pattern means: its manifest, and the report of an earlier run. What else is in the report's place
    stays an input, which nothing replaces."""
    return [path for path in (manifest, report) if path is not None and (path is manifest or _is_report(path))]


def _is_report(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.readline(16).strip() == b"{"  # as no list and no picture begins
    return False


def check_names(listed: Sequence[Listed], outputs: Sequence[Path]) -> None:
    """ValueError where a list names a result otherwise than the command's output does."""
    for each, output in zip(listed, outputs, strict=True):
        if each.chosen and each.name != output.name:
            raise ValueError(
                f"{each.where} has output {printable(each.name)}, and --output {output} is a file: give a folder, ending with a "
                "slash, or leave output out of that line"
            )


def _of_lists(paths: Sequence[Path], *, only: str | None, own: Collection[str]) -> list[Listed]:
    """What an input's lists name. Those that ``only`` cannot choose from are passed over, where it can from any."""
    found, without = [], []
    for path in paths:
        try:
            found.append(_read(path, only=only, own=own))
        except NoStatuses as error:
            without.append(error)
    if without and (only is None or not found):
        raise without[0]
    return [each for listed in found for each in listed]


def _read(path: Path, *, only: str | None, own: Collection[str]) -> list[Listed]:
    try:
        with path.open("rb") as file:
            manifest = file.read(len(START)) == START
            file.seek(0)
            lines = [] if manifest else file.read().splitlines()
    except OSError as error:
        raise ValueError(f"list {path} cannot be read ({reason(error)}): give another one") from error
    if manifest:
        return _of_manifest(path, only=only, own=own)
    if only is not None:
        raise NoStatuses(f"--only {only} chooses from a manifest, and {path} is a list without statuses: leave it out")
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ValueError(f"list {path} names no picture: {FORM}")
    return [_listed(line, f"line {number} of {path}", path.parent, own) for number, line in numbered]


def _of_manifest(path: Path, *, only: str | None, own: Collection[str]) -> list[Listed]:
    """own: options beside these are passed over, as not every command has them."""
    last = {entry.source: (output, entry) for output, entry in Manifest.read(path).entries.items()}
    if not last:
        raise NoStatuses(f"manifest {path} names no picture, as its only line was cut short: give the pictures")
    found = []
    for source, (output, entry) in last.items():
        if only in (None, entry.status):
            where, kept = (
                str(path),
                {name: value for name, value in entry.own.items() if name in own or name not in OWN},
            )
            _check(kept, where, {name: OWN[name] for name in own})
            found.append(Listed(Path(source), Path(output).name, own=kept, where=where))
    return found


def _listed(line: bytes, where: str, folder: Path, own: Collection[str]) -> Listed:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({printable(str(error))}): {FORM}") from error
    if not isinstance(said, dict) or SOURCE not in said:
        raise ValueError(f"{where} names no source: {FORM}")
    _check(said, where, {SOURCE: (str,), OUTPUT: (str,), **{name: OWN[name] for name in own}})
    name = said.get(OUTPUT, "")
    if name != Path(name).name:
        raise ValueError(
            f"{where} has output {printable(name)}, needed is a name without a folder: --output names that"
        )
    source = expanded(said[SOURCE])
    listed = Listed(source if source.is_absolute() else folder / source, name, where=where, chosen=bool(name))
    return replace(listed, own={key: value for key, value in said.items() if key not in (SOURCE, OUTPUT)})


def _check(said: Mapping[str, Any], where: str, allowed: Mapping[str, tuple[type, ...]]) -> None:
    """ValueError for what a picture's line cannot say. allowed: what it may, and of what types."""
    for name, value in said.items():
        if name not in allowed:
            raise ValueError(f"{where} has {printable(name)}, which no list takes here: give {', '.join(allowed)}")
        if not isinstance(value, allowed[name]) or isinstance(value, bool) or value == "":
            raise ValueError(f"{where} has {name} {printable(json.dumps(value))}, needed is {KINDS[name]}: mend it")
        if isinstance(value, str) and not _usable(value, path=name in (SOURCE, OUTPUT)):
            raise ValueError(
                f"{where} has {name} {printable(json.dumps(value))}, which no path and no prompt can be: mend it"
            )
        if name in LIMITS and not isinstance(value, str):
            try:
                LIMITS[name].check(name, value)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error


def _usable(text: str, *, path: bool) -> bool:
    """path: whether it has to be one in this system's encoding, too."""
    try:
        return b"\0" not in (os.fsencode(text) if path else text.encode())
    except UnicodeEncodeError:  # half of a character, or one that no file's name has here
        return False
