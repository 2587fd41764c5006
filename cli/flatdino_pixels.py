"""``dinotile flatdino train-decoder``: pixels out of what a FlatDINO restores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from .bars import Bars
from .features import DINO, Data, Device, Seed
from .flatdino_data import Flat
from .train import interrupts


def train_decoder(
    flat: Flat,
    data: Data,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; the same command goes on with it.")
    ],
    dino: Annotated[str, typer.Option(help=DINO)],
    perceptual: Annotated[
        str, typer.Option(metavar="MODEL", help="Network of the perceptual loss: a VGG or a DINO; else --dino.")
    ] = "",
    size: Annotated[str, typer.Option(help="Of the decoder: n, t, s, b or l, as in names of experiments.")] = "b",
    patch: Annotated[int, typer.Option(help="Side of a patch's square in the picture, px; usually 16.")] = 16,
    gan_from: Annotated[float, typer.Option(help="Share of the steps after which the GAN begins; 1 for none.")] = 0.5,
    batch: Annotated[int, typer.Option(help="Pictures of a step.")] = 32,
    steps: Annotated[int, typer.Option(help="Of the optimiser.")] = 100_000,
    learning_rate: Annotated[float, typer.Option(help="Peak; it falls to a tenth; usually 2e-4.")] = 2e-4,
    ema: Annotated[float, typer.Option(help="Decay of the averaged weights.")] = 0.999,
    precision: Annotated[str, typer.Option(help="Of computing: no, bf16 or fp16.")] = "no",
    save_every: Annotated[int, typer.Option(help="Steps from one checkpoint to the next.")] = 1000,
    validate_every: Annotated[
        int, typer.Option(help="Steps from one look at held-out pictures to the next, 0: never.")
    ] = 1000,
    sample_every: Annotated[int, typer.Option(help="Steps from one sheet of them to the next, 0: never.")] = 1000,
    log_every: Annotated[int, typer.Option(help="Steps from one line of the log to the next.")] = 50,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a decoder that draws pictures from a FlatDINO's latents; of one process."""
    if not 0 <= gan_from <= 1:
        raise ValueError(f"gan-from {gan_from:g} must be from 0 to 1: usually 0.5, 1 for no GAN")
    from ..dino.compress.checkpoint import load_flat
    from ..dino.compress.features import settings_for
    from ..dino.load import load_dino
    from ..files.paths import expanded
    from ..hosts.diffusers.sources import dino_path
    from ..training.core.config import from_mapping
    from ..training.core.output import SAMPLES
    from ..training.core.perceptual import DinoMaps, load_maps
    from ..training.data.sources import check_apart
    from ..training.flatdino.patches import EncodedPatches
    from ..training.flatdino.pixels import train_pixels
    from ..training.flatdino.settings import GeneratorRun
    from ..upscaling.device import find_device

    told = {"batch": batch, "steps": steps, "warmup": min(1000, steps // 10), "learning_rate": learning_rate}
    every = {"save_every": save_every, "validate_every": validate_every, "log_every": log_every}
    sections: dict[str, Any] = {
        "optimisation": {**told, "ema": ema, "precision": precision, "seed": seed},
        "output": {"folder": str(output), "sample_every": sample_every, **every},
    }
    config = from_mapping(sections, GeneratorRun)
    if sample_every:
        advice = "choose another --output, or --sample-every 0"
        check_apart(Path(config.output.folder, SAMPLES), data, advice=advice)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dinotile").setLevel(logging.INFO)
    place = find_device(device)
    loaded, encoder = load_flat(flat, device=place), load_dino(dino_path(dino), device=place)
    encoder.model.requires_grad_(False)
    encode = settings_for(loaded.config, encoder.spec)
    source = EncodedPatches(data, encoder, layers=encode.layers, side=encode.side)
    own = DinoMaps(encoder)
    maps = load_maps(expanded(perceptual), device=place) if perceptual else own
    with Bars() as bars, interrupts() as interrupted:
        path = train_pixels(
            loaded,
            source,
            size=size,
            patch=patch,
            maps=maps,
            seen=own,
            gan_from=gan_from,
            settings=config.optimisation,
            output=config.output,
            device=place,
            progress=bars,
            should_stop=lambda: bool(interrupted),
        )
    typer.echo(f"{path}{'  (stopped early; the same command goes on)' if interrupted else ''}")
