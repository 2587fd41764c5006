"""The ``dinotile`` command. Nothing heavy is imported before a command has checked what it was given."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .bars import errors
from .features import features
from .fit_redux import fit_redux
from .run import run
from .train import train
from .upscale import upscale

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
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


for command in (upscale, run, train, features):
    app.command()(command)
app.command(name="fit-redux")(fit_redux)


def main() -> None:
    """Entry point: a user's error is one line and exit code 2, any other keeps its traceback."""
    code = None
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        message = _for_the_user(error)
        if message is None:
            raise
        errors.print(f"dinotile: {' '.join(message.split())}", markup=False)
        code = USER_ERROR
    if code == INTERRUPTED:
        errors.print("dinotile: interrupted, nothing half-written was left")
    sys.exit(code)


def _for_the_user(error: Exception) -> str | None:
    """The sentence of an error that the user can do something about, or None for a fault of the program.

    Those are the command line's own, and ValueErrors that this package (not a library below it) raised.
    """
    if hasattr(error, "format_message"):  # typer's, whichever click it carries
        return error.format_message()  # type: ignore[attr-defined]
    if _out_of_memory(error):
        return "the device ran out of memory: use a smaller --tile, a smaller --scale, or --device cpu"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("dinotile.")
    return str(error) if isinstance(error, ValueError) and ours else None


def _out_of_memory(error: Exception) -> bool:
    """Whether torch or Python says so; of the CPU and of MPS, torch says it in a plain RuntimeError."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return said or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
