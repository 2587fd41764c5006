"""Output files of the command line: where they go, and pictures that came as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from ..files.writing import check_writable, replacing, same_file


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
