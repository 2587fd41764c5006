"""The files of a run: whether they came whole, in which format they are kept, and under which names."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path

from ...files.containers import MEGAPIXELS, UNREADABLE, opened
from ...files.errors import plain, reason
from ...files.writing import LONGEST_SIDE, check_picture_output, check_writable, replacing, same_file
from .answers import Output
from .client import ComfyClient
from .link import Cut, Slow, Unreachable
from .wire import DeadlinePassed

DECODED = 100  # megapixels: larger pictures are not decoded to see whether they are whole
MEDIA = {".mp4", ".webm", ".mkv", ".mov", ".mp3", ".flac", ".wav", ".opus"}  # that OUT may end in, beside pictures


def check_output(path: Path) -> None:
    """Raise ValueError where no result of a run could be written to ``path``."""
    if path.suffix.lower() in MEDIA:
        check_writable(path)
    else:
        check_picture_output(path)


def place_of(path: Path, number: int, output: Output | None = None) -> Path:
    """Where a run's result goes: ``path``, then -2, -3, ... A file that is no picture of its kind keeps its own ending."""
    place = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
    own = output is not None and (output.kept or path.suffix.lower() not in LONGEST_SIDE)
    return place.with_suffix(output.suffix) if output and own else place


def places_taken(path: Path) -> list[Path]:
    """What is there already of the names that the results of a run may get: ``path`` and ``path`` with a number."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    start = f"{path.stem}-"
    further = [other for other in beside if other.suffix == path.suffix and other.stem.startswith(start)]
    numbers = sorted(other for other in further if other.stem[len(start) :].isdecimal())
    return [path, *numbers] if path.exists() else numbers


@dataclass(frozen=True)
class Brought:
    """A file that was stored. ``new``: it was not there already. ``note``: what of it its format does not hold, or empty."""

    place: Path
    output: Output
    new: bool = True
    note: str = ""


class _Unfit(ValueError):
    """A picture that the ending of its place cannot hold."""


def bring(
    client: ComfyClient,
    outputs: Sequence[Output],
    path: Path,
    *,
    inputs: Sequence[Path],
    overwrite: Callable[[Path], bool],
    keep: bool = False,
) -> Iterator[Brought]:
    """Download a run's files, each whole or not at all.

    ``overwrite``: whether a place's file may be replaced. ``keep``: a file that is there already stays, where it is the run's.
    Raises ValueError, where a single file could not be had or written after all others were.
    """
    missing: list[ValueError] = []
    for number, output in enumerate(outputs, start=1):
        place = place_of(path, number, output)
        try:
            if keep and not overwrite(place) and place.is_file() and _is_there(client, output, place):
                brought = Brought(place, output, new=False)
            else:
                fill = partial(_download, client, output)
                brought = store(fill, output, place, inputs=inputs, overwrite=overwrite, keep=keep)
        except (Slow, Unreachable, DeadlinePassed):
            raise
        except ValueError as error:
            missing.append(error)
            continue
        yield brought
    if missing:
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise ValueError(f"{missing[0]}{more}") from missing[0]


def store(
    fill: Callable[[Path], object],
    output: Output,
    place: Path,
    *,
    inputs: Sequence[Path] = (),
    overwrite: Callable[[Path], bool],
    keep: bool = False,
) -> Brought:
    """Write what ``fill`` writes to ``place``, whole or not at all: a picture in the format of its ending, and under its own
    ending where that cannot hold it.

    ``keep``: the same file may be there. Raises ValueError where another is there, or an input.
    """
    if any(same_file(place, source) for source in inputs):
        raise ValueError(f"output {place} is the input itself: choose another name")
    there = os.path.lexists(place) and not overwrite(place)
    taken = ValueError(f"output {place} exists already: choose another name, or replace it with --overwrite")
    if there and not keep:
        raise taken
    try:
        with replacing(place) as part:
            fill(part)
            note = "" if output.kept else _convert(part, place, output)
            if there and not filecmp.cmp(part, place, shallow=False):
                raise taken
    except _Unfit as error:
        own, kept = place.with_suffix(output.suffix), replace(output, animated=True)
        brought = store(fill, kept, own, inputs=inputs, overwrite=overwrite, keep=keep)
        return replace(brought, output=output, note=f"{error}, and keeps its ending")
    return Brought(place, output, not there, note)


def contents(client: ComfyClient, output: Output) -> bytes:
    """A file's bytes, whole."""

    def download() -> bytes:
        sink = BytesIO()
        client.download(output, sink)
        check_whole(sink.getvalue(), output)
        return sink.getvalue()

    return client.retried(download)


def check_whole(file: Path | bytes, output: Output) -> None:
    """Raise ``Cut`` where a picture's file ends too early or holds something else. What is no picture passes."""
    if output.kept:
        return
    try:
        with opened(_source(file), max_megapixels=None) as image:
            small = image.width * image.height <= DECODED * 1e6
            image.verify()  # the checksums of a PNG
        if small:
            with opened(_source(file)) as image:
                image.load()
    except UNREADABLE as error:
        said = plain(reason(error), 100)
        raise Cut(f"{plain(output.filename, 100)} of {output} came back broken ({said}): ask for it again") from error


def _source(file: Path | bytes) -> Path | BytesIO:
    return file if isinstance(file, Path) else BytesIO(file)


def _is_there(client: ComfyClient, output: Output, place: Path) -> bool:
    return client.retried(lambda: client.resembles(output, place))


def _download(client: ComfyClient, output: Output, part: Path) -> None:
    def download() -> None:
        with part.open("wb") as sink:
            client.download(output, sink)
        check_whole(part, output)

    client.retried(download)


def _convert(file: Path, place: Path, output: Output) -> str:
    """Give a picture the format of the ending of ``place``, where it has another; what was lost by that, or empty."""
    from PIL import Image

    from ...files.pictures import encoded, load_picture

    wanted = Image.registered_extensions().get(place.suffix.lower())
    with opened(file, max_megapixels=None) as image:
        if wanted in (None, image.format):
            return ""
        if getattr(image, "n_frames", 1) > 1:
            raise _Unfit(f"the result is an animation ({image.format}), which {place.name} cannot hold whole")
        (width, height), megapixels = image.size, image.width * image.height / 1e6
    if max(width, height) > LONGEST_SIDE[place.suffix.lower()] or megapixels > MEGAPIXELS:
        raise _Unfit(f"the result of {width} x {height} px is too large to become {place.name}")
    name = plain(output.filename, 100)
    try:
        content, note = encoded(load_picture(file), place)
    except ValueError as error:
        said = plain(str(error).replace(str(file), name), 300)
        raise _Unfit(f"the result cannot become {place.name} ({said})") from error
    file.write_bytes(content)
    return note.replace(file.name, name)
