"""The ``dinotile`` command. Nothing heavy is imported before a command has checked what it was given."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import Annotated, Any

import typer

from ..files.errors import plain
from .again import again
from .bars import errors
from .doctor import doctor
from .features import features
from .fetch import fetch
from .fit_redux import fit_redux
from .flatdino import flatdino
from .home import at_home
from .run import run
from .sentences import for_the_user
from .train import train
from .upscale import upscale

app = typer.Typer(pretty_exceptions_enable=False)
USER_ERROR, INTERRUPTED = 2, 130


@app.callback(invoke_without_command=True)
def base(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Upscale pictures with FLUX, tile by tile, guided by DINO features."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"dinotile {installed('dinotile')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (upscale, again, run, fetch, train, features, doctor):
    app.command()(at_home(command))
app.command(name="fit-redux")(at_home(fit_redux))
app.add_typer(flatdino, name="flatdino")


def main() -> None:
    """Entry point: a user's error is one line and exit code 2, any other keeps its traceback."""
    code = None
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a title that the terminal cannot show is no reason to break
    signal.signal(signal.SIGTERM, _interrupt)
    for library in ("DIFFUSERS", "TRANSFORMERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # their warnings are for programmers
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        message = for_the_user(error)
        if message is None:
            raise
        errors.print(f"dinotile: {plain(message, 4000)}", markup=False)
        code = USER_ERROR
    if code == INTERRUPTED:
        errors.print("dinotile: interrupted, nothing half-written was left")
    sys.exit(code)


def _interrupt(number: int, frame: Any) -> None:
    """A request to end is Ctrl-C: files stay whole, and what was done is reported."""
    raise KeyboardInterrupt
