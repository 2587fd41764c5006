"""``dinotile upscale``: many files with one load of the models."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import typer

from ..files.kinds import MEGAPIXELS, MOST_STORED
from ..files.paths import expanded, expanded_text
from ..tiling.wanted import WantedSize
from . import job_options as job
from . import upscale_options as option
from .ahead import told
from .bars import followed
from .batch import Batch, resume, upscale_batch
from .batch_report import earlier, leave_if
from .cluster import upscale_on_ray
from .features import Device
from .kept import Store
from .lists import check_names, find_listed, lists_of, own_files
from .manifest import named
from .outputs import check_apart, check_free, check_inputs_stay, check_report, is_picture, plan_outputs

FILES = (  # options of the command alone
    "inputs",
    "only",
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
    "store",
    "store_size",
    "redo",
    "manifest",
    "ray",
    "workers",
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


def upscale(
    inputs: job.Inputs,
    output: job.Output,
    scale: option.Scale = 2.0,
    denoise: option.Denoise = 0.3,
    steps: option.Steps = None,
    variant: option.Variant = "demo",
    model_path: option.ModelPath = None,
    vae_path: option.VaePath = None,
    dino: option.Dino = None,
    dino_layers: option.DinoLayers = "",
    adapter: option.Adapter = None,
    dino_strength: option.DinoStrength = 1.0,
    dino_guidance: option.DinoGuidance = 1.0,
    dino_mask: option.DinoMask = None,
    no_dino: option.NoDino = False,
    redux: option.Redux = None,
    redux_strength: option.ReduxStrength = 1.0,
    redux_grid: option.ReduxGrid = 14,
    controlnet: option.Controlnet = None,
    controlnet_strength: option.ControlnetStrength = 0.6,
    upscale_model: option.UpscaleModel = None,
    denoise_mask: option.DenoiseMask = None,
    adaptive: option.Adaptive = 0.0,
    tile: option.Tile = None,
    overlap: option.Overlap = None,
    tile_fit: option.TileFit = "balanced",
    moving: option.Moving = False,
    fidelity: option.Fidelity = None,
    vae_detail: option.VaeDetail = None,
    color_match: option.ColorMatch = "off",
    anchor: option.Anchor = None,
    guide: option.Guide = 0.0,
    guide_from: option.GuideFrom = 1.0,
    guide_to: option.GuideTo = 0.05,
    guide_every: option.GuideEvery = 1,
    decoder: option.Decoder = None,
    retry: option.Retry = 0.0,
    prompt: option.Prompt = None,
    mask_padding: option.MaskPadding = False,
    guidance: option.Guidance = None,
    cfg: option.Cfg = None,
    negative: option.Negative = None,
    seed: option.Seed = 0,
    device: Device = "auto",
    dtype: option.Dtype = "auto",
    weights: option.Weights = "full",
    offload: option.Offload = "none",
    attention_slicing: option.AttentionSlicing = False,
    compile: option.Compile = False,
    report: job.Report = None,
    overwrite: job.Overwrite = False,
    skip_existing: job.SkipExisting = False,
    keep_going: job.KeepGoing = False,
    max_megapixels: job.MaxMegapixels = MEGAPIXELS,
    dry_run: job.DryRun = False,
    width: job.Width = None,
    height: job.Height = None,
    longest: job.Longest = None,
    megapixels: job.Megapixels = None,
    compare: job.Compare = False,
    no_recipe: job.NoRecipe = False,
    mode: option.Mode = "auto",
    noise: option.Noise = "canvas",
    store: job.Store = None,
    store_size: job.StoreSize = MOST_STORED,
    redo: job.RedoTiles = "",
    manifest: job.Manifest = None,
    ray: job.Ray = None,
    workers: job.Workers = None,
    only: job.Only = None,
) -> None:
    """Upscale pictures on this machine, with diffusers."""
    options = {name: value for name, value in locals().items() if name not in FILES}
    output = expanded_text(output)
    if skip_existing and (overwrite or manifest):
        other = "--overwrite" if overwrite else "--manifest, which knows what is done,"
        raise ValueError(f"{other} and --skip-existing exclude each other: give one of them")
    if redo and (manifest or skip_existing):
        other = "--manifest" if manifest else "--skip-existing"
        raise ValueError(f"--redo is for a picture that is there already, which {other} leaves out: give one of them")
    if workers is not None and ray is None:
        raise ValueError("--workers acts with --ray only: leave it out, or give a cluster")
    from ..files.containers import check_size

    check_size(1, 1, max_megapixels=max_megapixels)
    besides = own_files(manifest, report)
    listed = find_listed(inputs, only=only, besides=besides)
    if not listed:
        typer.echo(f"no picture of {', '.join(inputs)} is {only}: nothing to do")
        return
    pictures = [each.source for each in listed]
    outputs = plan_outputs(pictures, output, names=[each.name for each in listed])
    check_names(listed, outputs)
    wanted = WantedSize(width, height, longest, megapixels)
    if wanted.given and scale != 2.0:
        raise ValueError("--scale and a size of the result were given: give one of them")
    batch = Batch(list(zip(pictures, outputs, strict=True)), report=report, compare=compare)
    drawn = batch.places()
    written = [*drawn, *([report] if report else [])]
    if report is not None:
        check_report(report, [*pictures, *drawn])
    check_apart(drawn)
    batch.store = Store(store, store_size, redo)
    named_too = [*(options[name] for name in PATHS), batch.store.painted, *lists_of(inputs, besides=besides)]
    check_inputs_stay(written, [*pictures, *named_too])
    batch.own = {named(each.source): dict(each.own) for each in listed if each.own}
    batch.keep_going = keep_going or bool(manifest or ray)
    batch.recipe, batch.wanted = not no_recipe, wanted
    batch.folder, batch.max_megapixels = None if outputs[0] == Path(output) else Path(output), max_megapixels
    if skip_existing:
        batch.jobs = [(source, place) for source, place in batch.jobs if not is_picture(place)]
        typer.echo(f"{len(outputs) - len(batch.jobs)} of {len(outputs)} pictures are there already")
        if not batch.jobs:
            return
    if manifest:
        typer.echo(resume(batch, manifest, options))
        if not batch.jobs:
            return
    left = {named(source) for source, _ in batch.jobs}
    batch.own = {source: own for source, own in batch.own.items() if source in left}  # no other prompt is encoded
    goes_on = bool(skip_existing or manifest)
    if goes_on and report and report.exists():
        batch.done = earlier(report, batch.jobs)
    taken = [*batch.taken(), *([report] if report and not goes_on else [])]
    check_free(taken, overwrite=overwrite, advice="remove it" if skip_existing else "replace it with --overwrite")
    if dry_run:
        for line in told(batch, options):
            typer.echo(line)
        return
    work = upscale_batch
    if ray is not None:
        work = partial(upscale_on_ray, address=ray, workers=workers)
        here = {name: expanded(options[name]) for name in PATHS if options[name]}
        options |= {name: str(path.absolute()) for name, path in here.items() if os.path.exists(path)}
        batch.store = batch.store.absolute
    followed(lambda bars: work(batch, options, progress=bars))
    leave_if(batch.failed, batch.jobs)
