"""Output files: where they go, and writing them whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

LONGEST_SIDE = {".jpg": 65500, ".jpeg": 65500, ".webp": 16383, ".png": 2**31 - 1, ".tif": 2**31 - 1, ".tiff": 2**31 - 1}


def plan_outputs(inputs: Sequence[Path], output: str) -> list[Path]:
    """One output file per input. ``output`` is a file for one input; a folder for several, where it exists as one, or
    where it ends with a slash. In a folder, results are named after their inputs, as .png. Raises ValueError."""
    folder = Path(output).is_dir() or output.endswith(("/", os.sep))
    if not folder and len(inputs) > 1:
        if Path(output).exists() or Path(output).suffix:
            raise ValueError(
                f"output {output} is one file for {len(inputs)} inputs: give a folder, ending with a slash"
            )
        folder = True
    outputs = [Path(output) / f"{path.stem}.png" for path in inputs] if folder else [Path(output)]
    for path, source in zip(outputs, inputs, strict=True):
        if outputs.count(path) > 1:
            raise ValueError(f"several inputs would be written to {path}: give inputs with different names")
        check_no_input(path, source)
    return outputs


def check_no_input(output: Path, source: Path) -> None:
    if same_file(output, source):
        raise ValueError(f"output {output} is the input itself: choose another name")


def check_report(report: Path, pictures: Sequence[Path]) -> None:
    """Raise ValueError where a report at ``report`` could not be written, or would replace one of the pictures."""
    for picture in pictures:
        if same_file(report, picture):
            raise ValueError(f"report {report} is also one of the pictures: choose another name, such as report.json")
    check_writable(report)


def same_file(path: Path, other: Path) -> bool:
    """Whether both names lead to one file, which need not exist yet."""
    return path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other))


def check_output(path: Path, *, height: int = 1, width: int = 1) -> None:
    """Raise ValueError where a picture of this size could not be written to ``path``; writes nothing that stays."""
    suffix = path.suffix.lower()
    if suffix not in LONGEST_SIDE:
        raise ValueError(f"output {path} ends in {suffix or 'nothing'}: end it in {', '.join(sorted(LONGEST_SIDE))}")
    if max(height, width) > LONGEST_SIDE[suffix]:
        raise ValueError(f"{width} x {height} px does not fit in a {suffix} file: write a .png")
    check_writable(path)


def check_writable(path: Path) -> None:
    """Raise ValueError where the file ``path`` could not be created or replaced."""
    if path.is_dir():
        raise ValueError(f"output {path} is a folder: give the path of a file")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} of output {path.name} does not exist: create it first")
    probe = _beside(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ValueError(f"output {path} cannot be written ({error.strerror}): choose another place") from error


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"folder {folder} cannot be made ({error.strerror}): choose another place") from error


class replacing:
    """``with replacing(path) as part``: write the file ``part`` beside ``path``; it takes its place on success only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = _beside(path)

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        try:
            if kind is None:
                os.replace(self.part, self.path)
        except OSError as failure:
            raise ValueError(f"output {self.path} cannot be written ({failure.strerror})") from failure
        finally:
            with suppress(FileNotFoundError):
                self.part.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise ValueError(f"output {self.path} cannot be written ({reason}): choose another place") from error


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def save_files(contents: Sequence[bytes], path: Path) -> list[Path]:
    """Write picture files to ``path``, and further ones to ``path`` with -2, -3, ... in the format of its ending."""
    written = []
    for number, content in enumerate(contents, start=1):
        place = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        with replacing(place) as part:
            part.write_bytes(_in_format_of(place, content))
        written.append(place)
    return written


def _in_format_of(path: Path, content: bytes) -> bytes:
    """A picture file's bytes, as they came where they already have the format of the ending."""
    from PIL import Image

    wanted = Image.registered_extensions()[path.suffix.lower()]
    with Image.open(BytesIO(content)) as image:
        if image.format == wanted:
            return content
        converted = BytesIO()
        (image.convert("RGB") if wanted == "JPEG" else image).save(converted, format=wanted, quality=95)
        return converted.getvalue()
