"""``dinotile flatdino train-generator`` and ``sample``: latents out of noise."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from ..files.writing import check_picture_output
from .bars import Bars
from .features import Data, Device, Layers, Seed, Side
from .flatdino_data import Flat, Maker, OwnDino, Stored, patches_of
from .outputs import OVERWRITE, check_free, check_inputs_stay
from .train import interrupts


def train_generator(
    flat: Flat,
    data: Data,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; the same command goes on with it.")
    ],
    size: Annotated[str, typer.Option(help="Of the network: n, t, s, b or l, as in names of experiments.")] = "b",
    classes: Annotated[bool, typer.Option("--classes", help="The folders that pictures lie in are classes.")] = False,
    statistics: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of `compute-stats`; else those of the data.")
    ] = None,
    dino: OwnDino = "",
    features: Stored = "",
    encoder: Maker = "",
    layers: Layers = "last",
    side: Side = 0,
    batch: Annotated[int, typer.Option(help="Pictures of a step.")] = 1024,
    steps: Annotated[int, typer.Option(help="Of the optimiser.")] = 100_000,
    learning_rate: Annotated[float, typer.Option(help="Constant after 1 % of the steps; usually 2e-4.")] = 2e-4,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights.")] = 0.9995,
    precision: Annotated[str, typer.Option(help="Of computing: no, bf16 or fp16.")] = "no",
    save_every: Annotated[int, typer.Option(help="Steps from one checkpoint to the next.")] = 1000,
    validate_every: Annotated[
        int, typer.Option(help="Steps from one look at held-out latents to the next, 0: never.")
    ] = 1000,
    log_every: Annotated[int, typer.Option(help="Steps from one line of the log to the next.")] = 50,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a network that makes latents, by flow matching; of one process."""
    options = locals()
    from ..dino.compress.checkpoint import load_flat
    from ..dino.compress.statistics import load_statistics
    from ..training.core.config import OptimisationSettings, OutputSettings, from_mapping
    from ..training.flatdino.generate import train_generator as run
    from ..training.flatdino.settings import GeneratorRun

    told = {"batch": batch, "steps": steps, "warmup": steps // 100, "learning_rate": learning_rate, "ema": ema}
    every = {"save_every": save_every, "validate_every": validate_every, "log_every": log_every}
    sections = {
        "optimisation": {**told, "precision": precision, "seed": seed, "weight_decay": 0.0},
        "output": {"folder": str(output), **every},
    }
    config = from_mapping(sections, GeneratorRun)
    optimisation: OptimisationSettings = config.optimisation
    written: OutputSettings = config.output
    loaded = load_flat(flat)
    known = load_statistics(statistics, flat=loaded.fingerprint) if statistics else None
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dinotile").setLevel(logging.INFO)
    place, source = patches_of(data, options)
    with Bars() as bars, interrupts() as interrupted:
        path = run(
            loaded,
            source,
            size=size,
            classes=classes,
            settings=optimisation,
            output=written,
            statistics=known,
            device=place,
            resume=True,
            progress=bars,
            should_stop=lambda: bool(interrupted),
        )
    typer.echo(f"{path}{'  (stopped early; the same command goes on)' if interrupted else ''}")


def sample(
    flat: Flat,
    generator: Annotated[
        Path, typer.Argument(metavar="GENERATOR", help="A file of `train-generator`, for this FlatDINO.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PICTURE", help="The samples, in a row.")],
    decoder: Annotated[
        Path | None, typer.Option(metavar="DECODER", help="Of `train-decoder`: draw pictures; else patches as colours.")
    ] = None,
    count: Annotated[int, typer.Option(help="How many, 1 to 64.")] = 8,
    label: Annotated[str, typer.Option(metavar="CLASS", help="Of which class; empty: of none.")] = "",
    guidance: Annotated[float, typer.Option(help="How closely to the class: 1 is plain, usually 1 to 4.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Of sampling, usually 50.")] = 50,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """Make latents out of noise, and show the patches that they are restored to."""
    check_inputs_stay([output], [flat, generator, *([decoder] if decoder else [])])
    check_free([output], overwrite=overwrite)
    check_picture_output(output)
    if not 1 <= count <= 64:
        raise ValueError(f"count {count} must be from 1 to 64: usually 8")
    if guidance != 1 and not label:
        raise ValueError(f"guidance {guidance:g} acts with a class only: give --label, or leave it at 1")
    import torch

    from ..dino.compress.checkpoint import load_flat
    from ..dino.compress.flow import sample as draw
    from ..dino.compress.generator import load_generator
    from ..dino.compress.pixels import load_pixels
    from ..files.pictures import Picture, save_picture
    from ..training.flatdino.between import row
    from ..upscaling.device import find_device

    place = find_device(device)
    loaded = load_flat(flat, device=place)
    made = load_generator(generator, flat=loaded.fingerprint, device=place)
    draws = None if decoder is None else load_pixels(decoder, flat=loaded.fingerprint, device=place)
    config = made.module.config
    noise = torch.randn(count, config.tokens, config.features, generator=torch.Generator().manual_seed(seed))
    labels = made.labels(label, count).to(place)
    latents = draw(made.module, made.statistics, labels=labels, noise=noise.to(place), steps=steps, guidance=guidance)
    patches = loaded.module.decode(latents)
    shown = row(patches) if draws is None else torch.cat(list(draws(patches).clamp(0, 1).cpu()), dim=2)
    save_picture(Picture(shown[None]), output)
    typer.echo(f"{output}: {count} of {label or 'no class'}")
