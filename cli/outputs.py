"""Output files of the command line: where they go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..files.writing import check_writable, same_file


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
