"""The files of a run: whether they came whole, in which format they are kept, and under which names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from ...files.containers import UNREADABLE, UnfitError, opened
from ...files.errors import plain, reason
from ...files.writing import LONGEST_SIDE, check_picture_output, check_writable, replacing, same_file
from .answers import Output
from .client import ComfyClient
from .link import Cut, ServerError, Slow, Unreachable

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


def bring(
    client: ComfyClient,
    outputs: Sequence[Output],
    path: Path,
    *,
    inputs: Sequence[Path],
    overwrite: bool,
    keep: bool = False,
) -> Iterator[tuple[Path, Output, bool]]:
    """Download a run's files, each whole or not at all: its place, what it is, and whether it was written.

    ``keep``: a file that is there already stays, and is not asked for. Raises ValueError, where a single file could not be had
    after all others were.
    """
    missing: list[ServerError] = []
    for number, output in enumerate(outputs, start=1):
        place = place_of(path, number, output)
        if any(same_file(place, source) for source in inputs):
            raise ValueError(f"output {place} is the input itself: choose another name")
        there = place.exists() and not overwrite
        if there and not keep:
            raise ValueError(f"output {place} exists already: choose another name, or replace it with --overwrite")
        if not there:
            try:
                _write(client, output, place)
            except (Slow, Unreachable):
                raise
            except ServerError as error:
                missing.append(error)
                continue
        yield place, output, not there
    if missing:
        more = f" (and {len(missing) - 1} more)" if missing[1:] else ""
        raise ServerError(f"{missing[0]}{more}") from missing[0]


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


def in_format_of(path: Path, file: Path | bytes) -> bytes | None:
    """A picture file's bytes in the format of the ending of ``path``, or None where it has that format already."""
    from PIL import Image

    wanted = Image.registered_extensions().get(path.suffix.lower())
    try:
        with opened(_source(file)) as image:
            if wanted in (None, image.format):
                return None
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"the result is an animation ({image.format}), which {path.name} cannot hold whole")
            converted = BytesIO()
            (image.convert("RGB") if wanted == "JPEG" else image).save(converted, format=wanted, quality=95)
            return converted.getvalue()
    except UnfitError as error:
        raise ValueError(f"the result is too large to become {path.name}: end it as the server's file") from error


def _source(file: Path | bytes) -> Path | BytesIO:
    return file if isinstance(file, Path) else BytesIO(file)


def _write(client: ComfyClient, output: Output, place: Path) -> None:
    def download() -> None:
        with part.open("wb") as sink:
            client.download(output, sink)
        check_whole(part, output)

    with replacing(place) as part:
        client.retried(download)
        converted = None if output.kept else in_format_of(place, part)
        if converted is not None:
            part.write_bytes(converted)
