"""``dinotile train``. Nothing heavy is imported before the configuration has been read."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train on what, and how.")],
    resume: Annotated[bool, typer.Option(help="Go on from the output folder's newest checkpoint, if any.")] = True,
) -> None:
    """Train a DINO adapter on your pictures; with several GPUs under `accelerate launch`."""
    from ..training.adapter.config import load_config

    settings = load_config(config)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started; the others are silent
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dinotile").setLevel(logging.INFO if first else logging.ERROR)
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # norms under autocast
    from ..training.core.loop import train as run

    with _bar(settings.optimisation.steps, visible=first) as progress, _interrupts() as interrupted:
        path = run(settings, resume=resume, progress=progress, should_stop=lambda: bool(interrupted))
    if first:
        typer.echo(f"{path}{'  (stopped early; the same command goes on)' if interrupted else ''}")


@contextmanager
def _bar(steps: int, *, visible: bool) -> Iterator[Any]:
    """A progress bar with the loss on the error stream."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("loss {task.fields[loss]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    average = 0.0
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, disable=not visible) as bar:
        task = bar.add_task("train", total=steps, loss="-")

        def update(done: int, total: int, loss: float) -> None:
            nonlocal average
            average = loss if not average else 0.98 * average + 0.02 * loss
            bar.update(task, completed=done, total=total, loss=f"{average:.4f}")

        yield update


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Ctrl-C or a request to end lets the step finish and saves; the second one ends at once."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
