"""``dinotile upscale``: many files with one load of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..files.kinds import FORMATS, MEGAPIXELS
from ..tiling.wanted import WantedSize
from ..upscaling.limits import LIMITS
from .ahead import told
from .bars import Bars
from .batch import Batch, earlier, table, upscale_batch
from .compare import place
from .features import DINO, Device
from .inputs import find_pictures
from .outputs import OVERWRITE, check_free, check_inputs_stay, check_report, is_picture, plan_outputs

FAILED = 1  # exit code
FILES = (  # options of the command alone
    "inputs",
    "output",
    "report",
    "overwrite",
    "skip_existing",
    "keep_going",
    "max_megapixels",
    "dry_run",
    "no_recipe",
    "compare",
    "width",
    "height",
    "longest",
    "megapixels",
)
PATHS = (  # options that name files or folders
    "model_path",
    "vae_path",
    "decoder",
    "controlnet",
    "upscale_model",
    "dino",
    "adapter",
    "redux",
    "dino_mask",
    "denoise_mask",
)


def ranged(setting: str, text: str) -> str:
    """The help of an option, with the range of its setting."""
    return f"{text} Range: {LIMITS[setting]}."


def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="IN...", help=f"Pictures: {', '.join(FORMATS)}; files, folders, patterns."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="A file, or a folder (ending with /).")],
    scale: Annotated[float, typer.Option(help=ranged("scale", "Output size over input size; usually 2 to 4."))] = 2.0,
    denoise: Annotated[
        float,
        typer.Option(
            "--denoise",
            "--strength",
            help=ranged("denoise", "How much may change: 0 nothing, 1 all; usually 0.2 to 0.5."),
        ),
    ] = 0.3,
    steps: Annotated[
        int | None,
        typer.Option(
            help=ranged("steps", "Model evaluations per tile, at any denoise. Default: demo 6, schnell 4, dev 20.")
        ),
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
    dino_strength: Annotated[float, typer.Option(help=ranged("dino_strength", "0 is off, 1 is as trained."))] = 1.0,
    dino_guidance: Annotated[
        float,
        typer.Option(
            help=ranged(
                "dino_guidance",
                "Classifier-free guidance by DINO: 1 is off; usually 1.5 to 3, for twice the time. It multiplies what the "
                "adapter has learned (the demo's: 2).",
            )
        ),
    ] = 1.0,
    dino_mask: Annotated[
        str | None, typer.Option(metavar="MASK", help="A picture of the same proportions: DINO acts where it is white.")
    ] = None,
    no_dino: Annotated[bool, typer.Option("--no-dino", help="Do not use DINO.")] = False,
    redux: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="FLUX.1 Redux with its SigLIP, a folder of diffusers or a hub name: tells FLUX what is in each tile; needs "
            "no adapter.",
        ),
    ] = None,
    redux_strength: Annotated[
        float, typer.Option(help=ranged("redux_strength", "Factor on the attention that Redux gets: 0 is off."))
    ] = 1.0,
    redux_grid: Annotated[
        int, typer.Option(help=ranged("redux_grid", "Redux's tokens per side of a tile; usually 9 to 27."))
    ] = 14,
    controlnet: Annotated[
        str | None,
        typer.Option(
            help="A tile or upscaling ControlNet of FLUX.1, which is shown the enlarged picture and keeps its layout at a high "
            "denoise: a .safetensors file in diffusers' layout, its folder or a hub name."
        ),
    ] = None,
    controlnet_strength: Annotated[
        float, typer.Option(help=ranged("controlnet_strength", "0 is off; usually 0.4 to 0.8."))
    ] = 0.6,
    upscale_model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Makes the first enlargement: an ESRGAN-type model (.safetensors), or bicubic. Default: demo its own, else "
            "bicubic.",
        ),
    ] = None,
    denoise_mask: Annotated[
        str | None,
        typer.Option(
            metavar="MASK", help="Likewise: where it is black, the enlarged picture stays; where white, it is redrawn."
        ),
    ] = None,
    adaptive: Annotated[
        float,
        typer.Option(
            help=ranged(
                "adaptive",
                "How much less is redrawn on flat ground, writing and small objects, as DINO sees them: 0 is off; usually 0.5 "
                "to 1. Needs a DINO model and no adapter.",
            )
        ),
    ] = 0.0,
    tile: Annotated[
        int | None,
        typer.Option(
            help=ranged("tile", "Tile side, px, about (--tile-fit), a multiple of 16. Default: 1024; demo 256.")
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(help=ranged("overlap", "Least overlap of tiles, px, smaller than --tile. Default: 128; demo 32.")),
    ] = None,
    tile_fit: Annotated[
        str,
        typer.Option(
            help="balanced: sides within 25 % of --tile, so that the fewest pixels are sampled; exact: that size."
        ),
    ] = "balanced",
    moving: Annotated[
        bool, typer.Option("--moving", help="Shift the tiles at every step, so that an --overlap of 0 to 32 suffices.")
    ] = False,
    fidelity: Annotated[
        float | None,
        typer.Option(
            help=ranged("fidelity", "0: FLUX alone; 1: shrunk, the result equals the source. Default: 0; demo 1.")
        ),
    ] = None,
    vae_detail: Annotated[
        float | None,
        typer.Option(
            help=ranged(
                "vae_detail",
                "Share of what the VAE alone loses of the enlarged picture that is put back; for a small VAE. At a high denoise "
                "old detail shows through. Default: 0; demo 1.",
            )
        ),
    ] = None,
    anchor: Annotated[
        float | None,
        typer.Option(
            help=ranged(
                "anchor",
                "Keeps every step true to the source at the source's own size; needs no DINO. 0 is off, 1 all of it; less "
                "for a source with noise or JPEG blocks. Default: 1 with --decoder and no --guide, else 0.",
            )
        ),
    ] = None,
    guide: Annotated[
        float,
        typer.Option(
            help=ranged(
                "guide",
                "Leads every step to where --dino sees the same as in the source, without an adapter; usually 1 to 2.",
            )
        ),
    ] = 0.0,
    guide_from: Annotated[
        float,
        typer.Option(help=ranged("guide_from", "Share of the first noise level from which --anchor and --guide act.")),
    ] = 1.0,
    guide_to: Annotated[float, typer.Option(help=ranged("guide_to", "Likewise, down to which they act."))] = 0.05,
    guide_every: Annotated[
        int, typer.Option(help=ranged("guide_every", "They act at every n-th step, as far as n steps would go."))
    ] = 1,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="A small VAE of FLUX's latents (TAEF1) that they look with. Default: the VAE, which is slower."
        ),
    ] = None,
    retry: Annotated[
        float,
        typer.Option(
            help=ranged(
                "retry",
                "Look at every tile with DINO, and do those again, gentler, that agree with the source less than this share of "
                "what plain enlargement does: 0 is off; usually 0.8 to 0.9.",
            )
        ),
    ] = 0.0,
    prompt: Annotated[str | None, typer.Option(help="What is in the picture; needs a whole pipeline.")] = None,
    mask_padding: Annotated[
        bool, typer.Option("--mask-padding", help="Keep T5's padding out of the attention, for adapters trained so.")
    ] = False,
    guidance: Annotated[float, typer.Option(help=ranged("guidance", "FLUX.1 dev's guidance; usually 2 to 4."))] = 3.5,
    cfg: Annotated[
        float,
        typer.Option(
            help=ranged(
                "cfg",
                "Classifier-free guidance by the prompt: 1 is off; usually 1.5 to 3, for up to three times the time.",
            )
        ),
    ] = 1.0,
    negative: Annotated[str | None, typer.Option(help="What --cfg leads away from. Default: the empty prompt.")] = None,
    seed: Annotated[int, typer.Option(help=ranged("seed", "Seed of the noise."))] = 0,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    weights: Annotated[
        str,
        typer.Option(help="FLUX's weights: full (in --dtype), fp8 (8 bits) or nf4 (4 bits, with bitsandbytes)."),
    ] = "full",
    offload: Annotated[
        str,
        typer.Option(
            help="none: models stay on the GPU; model: one is there at a time; sequential: one layer at a time, slowly."
        ),
    ] = "none",
    attention_slicing: Annotated[
        bool,
        typer.Option(
            "--attention-slicing", help="Attention in parts, for devices without fused kernels (MPS, old GPUs)."
        ),
    ] = False,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="FLUX by torch.compile: minutes before the first step, for many pictures; needs a compiler.",
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write sizes, tiles, seconds, memory and versions as JSON.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out pictures whose output file exists already.")
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Do the others where pictures fail; exit code 1 and a table at the end."),
    ] = False,
    max_megapixels: Annotated[float, typer.Option(help="The largest picture that is read; above 0.")] = MEGAPIXELS,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Tell sizes, tiles, and about how long and how much memory; load and write nothing."
        ),
    ] = False,
    width: Annotated[int | None, typer.Option(help="Width of the result, px, in place of --scale; above 0.")] = None,
    height: Annotated[int | None, typer.Option(help="Its height, px; with --width it fits into both; above 0.")] = None,
    longest: Annotated[int | None, typer.Option(help="Its longer side, px; above 0.")] = None,
    megapixels: Annotated[float | None, typer.Option(help="Its size in 10^6 px; above 0.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write OUT-compare.jpg: plain enlargement and result, side by side.")
    ] = False,
    no_recipe: Annotated[
        bool,
        typer.Option(
            "--no-recipe", help="Do not say in the result's file how it was made (options, prompt, names of models)."
        ),
    ] = False,
) -> None:
    """Upscale pictures on this machine, with diffusers."""
    options = {name: value for name, value in locals().items() if name not in FILES}
    if overwrite and skip_existing:
        raise ValueError("--overwrite and --skip-existing exclude each other: give one of them")
    from ..files.containers import check_size

    check_size(1, 1, max_megapixels=max_megapixels)
    pictures = find_pictures(inputs)
    outputs = plan_outputs(pictures, output)
    wanted = WantedSize(width, height, longest, megapixels)
    if wanted.given and scale != 2.0:
        raise ValueError("--scale and a size of the result were given: give one of them")
    drawn = [*outputs, *(map(place, outputs) if compare else ())]
    written = [*drawn, *([report] if report else [])]
    if report is not None:
        check_report(report, [*pictures, *drawn])
    check_inputs_stay(written, [options[name] for name in PATHS])
    batch = Batch(list(zip(pictures, outputs, strict=True)), report=report, keep_going=keep_going)
    batch.recipe, batch.wanted, batch.compare = not no_recipe, wanted, compare
    batch.folder, batch.max_megapixels = None if outputs[0] == Path(output) else Path(output), max_megapixels
    if skip_existing:
        batch.jobs = [(source, place) for source, place in batch.jobs if not is_picture(place)]
        typer.echo(f"{len(outputs) - len(batch.jobs)} of {len(outputs)} pictures are there already")
        if not batch.jobs:
            return
        batch.done = earlier(report, batch.jobs) if report and report.exists() else []
    check_free([] if skip_existing else written, overwrite=overwrite)
    if dry_run:
        for line in told(batch, options):
            typer.echo(line)
        return
    with Bars() as bars:
        for line in upscale_batch(batch, options, progress=bars):
            bars.close()
            typer.echo(line)
    if batch.failed:
        Console().print(table(batch.failed, batch.jobs))
        raise typer.Exit(FAILED)
