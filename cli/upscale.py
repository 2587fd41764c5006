"""``dinotile upscale``: many files with one load of the models."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..files.progress import Progress
from ..files.writing import check_picture_output, check_writable, make_folder, write_text
from .bars import Bars
from .features import DINO, Device
from .outputs import OVERWRITE, check_free, check_inputs_stay, check_report, plan_outputs

FILES = ("inputs", "output", "report", "overwrite", "skip_existing")  # options about files, not about pictures


def upscale(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Pictures: PNG, JPEG, WebP, TIFF.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="A file, or a folder (ending with /).")],
    scale: Annotated[float, typer.Option(help="Output size over input size; usually 2 to 4.")] = 2.0,
    denoise: Annotated[
        float,
        typer.Option("--denoise", "--strength", help="How much may change: 0 nothing, 1 all; usually 0.2 to 0.5."),
    ] = 0.3,
    steps: Annotated[
        int | None,
        typer.Option(help="Model evaluations per tile, at any strength. Default: demo 6, schnell 4, dev 20."),
    ] = None,
    variant: Annotated[str, typer.Option(help="demo (small models of this package), schnell or dev.")] = "demo",
    model_path: Annotated[
        str | None, typer.Option(help="FLUX: a .safetensors file, a diffusers folder or a hub name (owner/name).")
    ] = None,
    vae_path: Annotated[str | None, typer.Option(help="VAE, likewise. Default: the model's own.")] = None,
    dino: Annotated[str | None, typer.Option(help=DINO)] = None,
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
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    report: Annotated[
        Path | None, typer.Option(help="Write sizes, tiles, seconds, memory and versions as JSON.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out pictures whose output file exists already.")
    ] = False,
) -> None:
    """Upscale pictures on this machine, with diffusers."""
    options = {name: value for name, value in locals().items() if name not in FILES}
    if overwrite and skip_existing:
        raise ValueError("--overwrite and --skip-existing exclude each other: give one of them")
    outputs = plan_outputs(inputs, output)
    folder = None if outputs[0] == Path(output) else Path(output)
    if report is not None:
        check_report(report, [*inputs, *outputs])
    written = [*outputs, *([report] if report else [])]
    check_inputs_stay(written, [model_path, vae_path, dino, adapter])
    if skip_existing:
        left = [pair for pair in zip(inputs, outputs, strict=True) if not pair[1].exists()]
        typer.echo(f"{len(outputs) - len(left)} of {len(outputs)} pictures are there already")
        if not left:
            return
        inputs, outputs = (list(paths) for paths in zip(*left, strict=True))
    check_free([*outputs, *([report] if report else [])], overwrite=overwrite)
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # their warnings are for programmers
    with Bars() as bars:
        for line in upscale_files(inputs, outputs, options, folder=folder, report=report, progress=bars):
            bars.close()
            typer.echo(line)


def upscale_files(
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    options: dict[str, Any],
    *,
    folder: Path | None,
    report: Path | None,
    progress: Progress,
) -> Iterator[str]:
    """Upscale each input into its output, and yield a line about each. Looks at every file before loading a model.

    options: the keywords of ``dinotile.upscale``. ``folder`` is made where it does not exist.
    """
    from ..files.pictures import load_picture, save_picture
    from ..tiling.canvas import scaled_size
    from ..upscaling.api import load_upscaler, split_options, upscale_picture
    from ..upscaling.report import environment, timed
    from ..upscaling.settings import settings_for

    chosen, models = split_options(options)
    settings = settings_for(options["variant"], **chosen)
    sizes = [scaled_size(*load_picture(source).pixels.shape[-2:], scale=settings.scale) for source in inputs]
    if folder is not None:
        make_folder(folder)
    for output, (height, width) in zip(outputs, sizes, strict=True):
        check_picture_output(output, height=height, width=width)
    if report is not None:
        check_writable(report)
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        upscaler = load_upscaler(**models)
    done = []
    for source, output in zip(inputs, outputs, strict=True):
        start = time.perf_counter()
        result, facts = upscale_picture(upscaler, load_picture(source), settings, progress=progress)
        note = save_picture(result, output)
        done.append({"file": str(source), "written": str(output), "note": note, **facts})
        size = facts["output"]
        tiles, steps = facts["tiles"]["count"], facts["steps"]
        guided = "with DINO" if facts["dino"] else "without DINO"
        yield (
            f"{output}  {size['width']} x {size['height']} px, {_counted(tiles, 'tile')}, {_counted(steps, 'step')}, {guided}, "
            f"{time.perf_counter() - start:.1f} s"
        )
        if note:
            yield note
    if report is not None:
        host = upscaler.host
        summary = environment(host.device)
        summary |= {"dtype": str(host.dtype).removeprefix("torch."), "variant": models.pop("variant")}
        summary |= {"models": models, "seconds": seconds, "pictures": done}
        write_text(report, json.dumps(summary, indent=2) + "\n")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
