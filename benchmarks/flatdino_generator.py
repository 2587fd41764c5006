"""Latents of a class out of noise, at toy size: `python -m benchmarks.flatdino_generator --folder FOLDER --decoder DECODER`.

The demo's FlatDINO and DINO, and pictures of one object of the demo's world, whose eight shapes are the classes. One run of a
generator is looked at after each of --steps: samples of all classes in turn, drawn by --decoder (`benchmarks.flatdino_pixels`
leaves one in its FOLDER/FlatDINO/pixels.safetensors), and their Frechet distance by DINO to --held pictures of each shape, as
`dinotile flatdino evaluate --generator` tells it, plain and with guidance; and the share of them whose class 10 neighbours among
the training pictures find, by the mean of what is restored. Beside them what the same decoder draws of the pictures themselves,
and what neighbours find of these. --sheet: a row for each class, one picture and then samples.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinotile import demo
from dinotile.benchmarks.figures import about, publish
from dinotile.benchmarks.flatdino import draw_classes
from dinotile.benchmarks.flatdino_pixels import opened, squares
from dinotile.dino.compress.checkpoint import LoadedFlat, load_flat
from dinotile.dino.compress.flow import sample
from dinotile.dino.compress.generator import Generator, load_generator
from dinotile.dino.compress.pixels import PixelDecoder, load_pixels
from dinotile.dino.load import load_dino
from dinotile.files.pictures import Picture, save_picture
from dinotile.training.core.config import OptimisationSettings, OutputSettings
from dinotile.training.flatdino.fidelity import ClassToken, made_up
from dinotile.training.flatdino.frechet import frechet
from dinotile.training.flatdino.generate import LatentSet, encode_all, train_generator
from dinotile.training.flatdino.patches import EncodedPatches
from dinotile.training.flatdino.probe import nearest

CPU = torch.device("cpu")
GUIDED = 2.0
SHOWN = 7  # samples of a class on the sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for pictures and the run")
    parser.add_argument("--decoder", type=Path, required=True, help="to pixels, for the demo's FlatDINO")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 400, 1600], help="after which it is looked at")
    parser.add_argument("--pictures", type=int, default=100, help="of each shape, to learn from")
    parser.add_argument("--held", type=int, default=25, help="of each shape, to compare with")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheet", type=Path, help="and the pictures here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    encoder, flat = load_dino(demo.DINO), load_flat(demo.FLAT)
    decoder = load_pixels(options.decoder, flat=flat.fingerprint)
    for name, first, count in (("train", 4 * 10**6, options.pictures), ("held", 5 * 10**6, options.held)):
        draw_classes(options.folder / name, first=first, count=count)
    train, held = (opened(options.folder / name, encoder) for name in ("train", "held"))
    known, true = (encode_all(flat, data, classes=True, device=CPU) for data in (train, held))
    figures, begun, judge, side = [], time.process_time(), ClassToken(encoder), decoder.config.height
    with torch.no_grad():
        pictures = torch.cat([judge(pixels) for pixels in squares(held, side).split(16)])
    for steps in options.steps:
        made = trained(flat, train, options.folder / "run", steps=steps)
        seconds = time.process_time() - begun
        figures += [{"steps": steps, "seconds": round(seconds), **told(flat, made, decoder, judge, known, pictures)}]
        print(figures[-1], flush=True)
    drawn = frechet(seen(flat, decoder, judge, true.latents), pictures)
    found = {"frechet": drawn, "right": right(flat, known, true.latents, true.labels)}
    publish({"about": about(CPU), "figures": figures, "pictures themselves": found}, options.json)
    if options.sheet is not None:
        save_picture(Picture(sheet(flat, made, decoder, squares(held, side), true)[None]), options.sheet)


def trained(flat: LoadedFlat, data: EncodedPatches, folder: Path, *, steps: int) -> Generator:
    """The run after so many steps; it goes on with what is in the folder."""
    settings = OptimisationSettings(steps=steps, batch=64, learning_rate=1e-3, warmup=20, ema=0.995, weight_decay=0.0)
    output = OutputSettings(
        folder=str(folder), tensorboard=False, save_every=500, validate_every=0, log_every=50, keep=1
    )
    path = train_generator(
        flat,
        data,
        size="n",
        classes=True,
        settings=settings,
        output=output,
        statistics=None,
        device=CPU,
        resume=True,
    )
    return load_generator(path, flat=flat.fingerprint)


@torch.no_grad()
def told(
    flat: LoadedFlat, made: Generator, decoder: PixelDecoder, judge: ClassToken, known: LatentSet, true: Tensor
) -> dict[str, Any]:
    """How far samples are from the class tokens of pictures, and how many are of their class, plain and with guidance."""
    found: dict[str, Any] = {}
    for name, guidance in (("plain", 1.0), ("guided", GUIDED)):
        latents = torch.cat(list(made_up(made, len(true), guidance=guidance, device=CPU)))
        labels = torch.arange(len(latents)) % len(known.classes)
        distance = frechet(seen(flat, decoder, judge, latents), true)
        found[name] = {"frechet": distance, "right": right(flat, known, latents, labels)}
    return found


@torch.no_grad()
def seen(flat: LoadedFlat, decoder: PixelDecoder, judge: ClassToken, latents: Tensor) -> Tensor:
    """The class tokens of what is drawn of latents, [n, D]."""
    return torch.cat([judge(decoder(flat.module.decode(part)).clamp(0, 1)) for part in latents.split(16)])


@torch.no_grad()
def right(flat: LoadedFlat, known: LatentSet, latents: Tensor, labels: Tensor) -> float:
    """The share whose class is found."""
    means = [flat.module.decode(each).mean((1, 2)) for each in (known.latents, latents)]
    return nearest(means[0], known.labels, means[1], labels, 10)


@torch.no_grad()
def sheet(flat: LoadedFlat, made: Generator, decoder: PixelDecoder, pictures: Tensor, true: LatentSet) -> Tensor:
    """A row for each class: a picture, what is drawn of it, and samples. [3, H, W] in 0..1."""
    config, rows = made.module.config, []
    for number in range(len(true.classes)):
        index = true.labels.tolist().index(number)
        noise = torch.randn(SHOWN, config.tokens, config.features, generator=torch.Generator().manual_seed(number))
        labels = torch.full((SHOWN,), number)
        latents = sample(made.module, made.statistics, labels=labels, noise=noise, guidance=GUIDED)
        drawn = decoder(flat.module.decode(torch.cat([true.latents[index][None], latents]))).clamp(0, 1)
        rows.append(torch.cat([pictures[index], *drawn], dim=2))
    return torch.cat(rows, dim=1)


if __name__ == "__main__":
    main()
