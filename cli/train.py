"""``dinotile train``. Nothing heavy is imported before the configuration has been read."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .bars import Bars

if TYPE_CHECKING:
    from ..training.adapter.config import TrainConfig


def _print_keys(wanted: bool) -> None:
    if wanted:
        from ..training.adapter.config import keys_page

        typer.echo(keys_page(), nl=False)
        raise typer.Exit


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to train on what, and how.")],
    keys: Annotated[
        bool, typer.Option("--keys", callback=_print_keys, is_eager=True, help="Print all keys of a configuration.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on from the output folder's newest checkpoint, if any.")] = True,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what is there and missing, and about what it would take.")
    ] = False,
) -> None:
    """Train a DINO adapter on your pictures; with several GPUs under `accelerate launch`."""
    from ..training.adapter.config import load_config

    settings = load_config(config)
    first = os.environ.get("RANK", "0") == "0"  # of the processes that a launcher started; the others are silent
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dinotile").setLevel(logging.INFO if first else logging.ERROR)
    if dry:
        return _print_dry_run(settings, resume=resume)
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # norms under autocast
    from ..training.adapter.run import train as run

    with Bars() as bars, interrupts() as interrupted:
        shown = bars if first else None
        path = run(settings, resume=resume, progress=shown, should_stop=lambda: bool(interrupted))
    if first:
        typer.echo(f"{path}{'  (stopped early; the same command goes on)' if interrupted else ''}")


def _print_dry_run(settings: TrainConfig, *, resume: bool) -> None:
    from ..training.adapter.dry_run import dry_run

    with Bars() as bars:
        found = dry_run(settings, resume=resume, progress=bars)
    typer.echo("\n".join(found.lines()))


@contextmanager
def interrupts() -> Iterator[list[int]]:
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
