"""The ``dinotile`` command. Nothing heavy is imported before a command has checked what it was given."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ..files.formats import check_output
from .features import features, fit_redux
from .outputs import check_no_input, plan_outputs
from .train import train

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

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


@app.command()
def upscale(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Pictures: PNG, JPEG, WebP, TIFF.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="A file, or a folder (ending with /).")],
    scale: Annotated[float, typer.Option(help="Output size over input size; usually 2 to 4.")] = 2.0,
    strength: Annotated[float, typer.Option(help="How much may change: 0 nothing, 1 all; usually 0.2 to 0.5.")] = 0.3,
    steps: Annotated[
        int | None,
        typer.Option(help="Model evaluations per tile, at any strength. Default: demo 6, schnell 4, dev 20."),
    ] = None,
    variant: Annotated[str, typer.Option(help="demo (small models of this package), schnell or dev.")] = "demo",
    model_path: Annotated[
        str | None, typer.Option(help="FLUX: a .safetensors file, a diffusers folder or a hub name (owner/name).")
    ] = None,
    vae_path: Annotated[str | None, typer.Option(help="VAE, likewise. Default: the model's own.")] = None,
    dino: Annotated[
        str | None, typer.Option(help="DINOv2 or DINOv3: a .safetensors file, its folder or a hub name.")
    ] = None,
    dino_layers: Annotated[str, typer.Option(help="Blocks to take. Default: the adapter's.")] = "",
    adapter: Annotated[
        str | None, typer.Option(help="DINO adapter for this FLUX and this DINO (.safetensors).")
    ] = None,
    dino_strength: Annotated[float, typer.Option(help="0 (off) to 2; 1 is as trained.")] = 1.0,
    dino_guidance: Annotated[
        float,
        typer.Option(
            help="Classifier-free guidance by DINO: 1 is off; usually 1.5 to 3, for twice the time. It multiplies what the "
            "adapter has learned (the demo's: 2)."
        ),
    ] = 1.0,
    no_dino: Annotated[bool, typer.Option("--no-dino", help="Do not use DINO.")] = False,
    tile: Annotated[int | None, typer.Option(help="Tile side, px. Default: 1024; demo 256.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Least overlap of tiles, px. Default: 128; demo 32.")] = None,
    fidelity: Annotated[
        float | None, typer.Option(help="0: FLUX alone; 1: shrunk, the result equals the source. Default: 0; demo 1.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What is in the picture; needs a whole pipeline.")] = None,
    guidance: Annotated[float, typer.Option(help="FLUX.1 dev's guidance; usually 2 to 4.")] = 3.5,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:1, mps or cpu.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    report: Annotated[
        Path | None, typer.Option(help="Write sizes, tiles, seconds, memory and versions as JSON.")
    ] = None,
) -> None:
    """Upscale pictures on this machine, with diffusers."""
    outputs = plan_outputs(inputs, output)
    from ..upscaling.settings import settings_for

    settings = settings_for(
        variant,
        scale=scale,
        strength=strength,
        steps=steps,
        tile=tile,
        overlap=overlap,
        fidelity=fidelity,
        guidance=guidance,
        seed=seed,
        dino_strength=dino_strength,
        dino_guidance=dino_guidance,
    )
    models = {
        "model_path": model_path,
        "vae_path": vae_path,
        "dino": dino,
        "dino_layers": dino_layers,
        "adapter": adapter,
        "no_dino": no_dino,
        "prompt": prompt,
        "device": device,
        "dtype": dtype,
    }
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # their warnings are for programmers
    from .batch import upscale_files

    with Bars() as bars:
        for line in upscale_files(
            inputs,
            outputs,
            settings,
            variant=variant,
            models=models,
            folder=None if outputs[0] == Path(output) else Path(output),
            report=report,
            progress=bars,
        ):
            bars.close()
            typer.echo(line)


@app.command()
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
    check_output(output)
    from .remote.run import run_workflow

    start = time.perf_counter()
    with Bars() as bars:
        result = run_workflow(workflow, image, server=server, settings=settings or [], timeout=timeout, progress=bars)
    for path in result.save(output):
        typer.echo(f"{path}  ({time.perf_counter() - start:.1f} s)")
    if result.note:
        typer.echo(result.note)


app.command()(train)
app.command()(features)
app.command(name="fit-redux")(fit_redux)


class Bars:
    """One bar per stage or node, added when it is first heard of; shows nothing before that."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, name: str, done: float, total: float) -> None:
        if self.progress is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self.progress = Progress(*columns, TimeElapsedColumn(), console=errors, redirect_stdout=False)
            self.progress.start()
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total)
        self.progress.update(self.tasks[name], completed=done, total=total)

    def close(self) -> None:
        """End these bars; the next call begins new ones below."""
        if self.progress is not None:
            try:
                self.progress.stop()
            except IndexError:  # rich, where Ctrl-C came in the middle of its start
                errors.show_cursor(True)
        self.progress, self.tasks = None, {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
