"""Output files of the command line: where they go, and that nothing is lost there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..files.errors import reason
from ..files.paths import expanded
from ..files.writing import same_file

OVERWRITE = "Replace output files that exist already; an input is never replaced."


def plan_outputs(inputs: Sequence[Path], output: str, *, names: Sequence[str] = ()) -> list[Path]:
    """One output file per input. ``output`` is a file for one input; a folder for several, where it exists as one, or
    where it ends with a slash. In a folder, results have the names that were given, or else those of their inputs, as .png.
    Raises ValueError, also where one of them would replace any of the inputs."""
    if not output:
        raise ValueError("the output is empty text: give a file, or a folder that ends with a slash")
    folder = Path(output).is_dir() or output.endswith(("/", os.sep))
    if not folder and len(inputs) > 1:
        if Path(output).exists() or Path(output).suffix:
            raise ValueError(
                f"output {output} is one file for {len(inputs)} inputs: give a folder, ending with a slash"
            )
        folder = True
    known = [name or f"{path.stem}.png" for path, name in zip(inputs, names or [""] * len(inputs), strict=True)]
    outputs = [Path(output) / name for name in known] if folder else [Path(output)]
    check_apart(outputs)
    check_inputs_stay(outputs, inputs)
    return outputs


def check_apart(outputs: Iterable[Path]) -> None:
    """Raise ValueError where two outputs have one place."""
    path, times = Counter(outputs).most_common(1)[0]
    if times > 1:
        raise ValueError(f"several inputs would be written to {path}: give inputs with different names")


def is_picture(path: Path) -> bool:
    """Whether there is something at ``path``; ValueError where that is no whole picture."""
    from ..files.containers import UNREADABLE, decoded, opened

    if not path.exists():
        return False
    try:
        with opened(path, max_megapixels=None) as image:
            decoded(image)
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is there and no whole picture ({reason(error)}): remove it and do it again"
        ) from error
    return True


def check_inputs_stay(outputs: Iterable[Path], inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Raise ValueError where an output would replace an input: one of these files, or a file in one of these folders.

    What is no path here, such as a hub name or None, is passed over.
    """
    places = [expanded(source) for source in inputs if source]
    known = {name for place in places if place.exists() for name in _names(place)}
    for output in outputs:
        if output.exists() and not known.isdisjoint(_names(output)):
            raise ValueError(f"output {output} is the input itself: choose another name")
        if output.exists() and any(str(parent) in known for parent in Path(os.path.realpath(output)).parents):
            raise ValueError(f"output {output} is a part of an input: choose another name")


def check_free(paths: Iterable[Path], *, overwrite: bool, advice: str = "replace it with --overwrite") -> None:
    """Raise ValueError where there are such files already, unless they may be overwritten. advice: what else than
    another name helps."""
    there = [] if overwrite else [path for path in paths if os.path.lexists(path)]
    if there:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise ValueError(f"output {there[0]}{more} exists already: choose another name, or {advice}")


def check_report(report: Path, pictures: Sequence[Path]) -> None:
    """Raise ValueError where a report at ``report`` would replace one of the pictures, old or new."""
    for picture in pictures:
        if same_file(report, picture):
            raise ValueError(f"report {report} is also one of the pictures: choose another name, such as report.json")


def _names(path: Path) -> set[object]:
    """By which an existing file is known: links of both kinds lead to the same."""
    found = path.stat()
    return {os.path.realpath(path), (found.st_dev, found.st_ino)}
