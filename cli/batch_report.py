"""What a batch of pictures tells at its end: the report, and the table of what failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..files.writing import write_text

if TYPE_CHECKING:
    from ..upscaling.upscaler import Upscaler
    from .batch import Batch

FAILED = 1  # exit code of a command that could not do all pictures


def write_report(
    batch: Batch, upscaler: Upscaler | None, *, options: dict[str, Any], seconds: dict[str, float]
) -> None:
    from ..upscaling.report import environment

    summary: dict[str, Any] = {}
    if upscaler is not None:
        summary = environment(upscaler.host.device) | {"dtype": str(upscaler.host.dtype).removeprefix("torch.")}
    summary |= {
        "variant": options["variant"],
        "options": {name: options[name] for name in options if name != "variant"},
    }
    failed = [{"file": str(source), "error": said} for source, said in batch.failed.items()]
    summary |= {"seconds": seconds, "pictures": batch.done, "failed": failed}
    assert batch.report is not None
    write_text(batch.report, json.dumps(summary, indent=2, default=str) + "\n")


def earlier(report: Path, jobs: Sequence[tuple[Path, Path]]) -> list[dict[str, Any]]:
    """The pictures of a report that an earlier run of the same batch left, without those of the jobs, which are done again;
    ValueError where it is no report."""
    again = {output for _, output in jobs}
    try:
        pictures = json.loads(report.read_text(encoding="utf-8"))["pictures"]
        if isinstance(pictures, list) and all(isinstance(picture, dict) for picture in pictures):
            return [picture for picture in pictures if Path(picture["written"]) not in again]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    raise ValueError(f"report {report} exists already and is no report of pictures: choose another name")


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def leave_if(failed: dict[Path, str], jobs: Sequence[tuple[Path, Path]]) -> None:
    """End the command, with a table of what has no result and why, where that is any."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not failed:
        return
    shown = Table(title=f"{len(failed)} of {len(jobs)} pictures failed", title_justify="left")
    shown.add_column("picture", overflow="fold")
    shown.add_column("why", overflow="fold")
    for source, said in failed.items():
        shown.add_row(Text(str(source)), Text(said))
    Console().print(shown)
    raise typer.Exit(FAILED)
