"""``dinotile run``: a workflow on a running ComfyUI."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..files.writing import check_picture_output
from .bars import Bars
from .outputs import check_no_input


def run(
    workflow: Annotated[Path, typer.Argument(metavar="WORKFLOW.json", help="A workflow, exported as API.")],
    image: Annotated[Path, typer.Option(metavar="IN", help="The picture for its LoadImage node.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where its first picture goes.")],
    server: Annotated[str, typer.Option(help="Address of a running ComfyUI.")] = "http://127.0.0.1:8188",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NODE.INPUT=VALUE", help="Change an input; may be repeated.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for the whole run; 0 for no limit.")] = 0,
) -> None:
    """Run a workflow on a ComfyUI server and bring its pictures back (OUT, OUT-2, ...)."""
    check_no_input(output, image)
    check_picture_output(output)
    from .remote.run import run_workflow

    start = time.perf_counter()
    with Bars() as bars:
        result = run_workflow(workflow, image, server=server, settings=settings or [], timeout=timeout, progress=bars)
    for path in result.save(output):
        typer.echo(f"{path}  ({time.perf_counter() - start:.1f} s)")
    if result.note:
        typer.echo(result.note)
