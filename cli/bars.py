"""Progress bars on the error stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

errors = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class Bars:
    """A ``files.progress.Progress``: one bar per stage, added when it is first heard of; shows nothing before that."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        if self.progress is None:
            self.progress = _begun()
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total, note=note)
        self.progress.update(self.tasks[stage], completed=done, total=total, note=note)

    def close(self, *, erase: bool = False) -> None:
        """End these bars; the next call begins new ones below. erase: as if they had never been, in a file too."""
        if self.progress is not None:
            self.progress.live.transient = erase
            try:
                self.progress.live.stop() if erase else self.progress.stop()
            except IndexError:  # rich, where Ctrl-C came in the middle of its start
                errors.show_cursor(True)
        self.progress, self.tasks = None, {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(erase=kind is not None and issubclass(kind, Exception))  # an error's sentence stands alone


def followed(work: Callable[[Bars], Iterator[str]]) -> None:
    """Print what the work tells, line by line, below the bars that it is given."""
    with Bars() as bars:
        for line in work(bars):
            bars.close()
            typer.echo(line)


def _begun() -> Progress:
    from rich import progress as parts

    text, note = (parts.TextColumn(field, markup=False) for field in ("{task.description}", "{task.fields[note]}"))
    bar, count = parts.BarColumn(), parts.MofNCompleteColumn()
    times = (parts.TimeElapsedColumn(), parts.TimeRemainingColumn())
    progress = parts.Progress(
        parts.SpinnerColumn(), text, bar, count, *times, note, console=errors, redirect_stdout=False
    )
    progress.start()
    return progress
