"""FlatDINO at toy size, beside codes of its size: `python -m benchmarks.flatdino --folder FOLDER --minutes 8`.

Pictures are sources of the demo's world (demo/train/world.py), drawn by number, and what is learned from is the demo's DINO's
12 x 12 patches of its last block, 128 wide. Each of --names is trained for --minutes of computing on --pictures of them, in
--folder, where an interrupted run goes on; then all are judged on --held other pictures, with baselines fitted to the training
pictures, and by --probes pictures of one object for each of the eight shapes.
"""

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dinotile import demo
from dinotile.benchmarks.figures import about, publish
from dinotile.demo.train import world
from dinotile.demo.train.muon import optimizers
from dinotile.dino.compress.checkpoint import load_flat
from dinotile.dino.encode import EncodeSettings
from dinotile.dino.load import load_dino
from dinotile.training.core.config import OutputSettings
from dinotile.training.core.loop import fit
from dinotile.training.core.optimiser import adamw
from dinotile.training.core.processes import Processes
from dinotile.training.core.trainer import Trainer
from dinotile.training.data.dino_recipe import DinoRecipe
from dinotile.training.data.features import precompute
from dinotile.training.flatdino.evaluate import evaluate, lines
from dinotile.training.flatdino.name import parse
from dinotile.training.flatdino.patches import StoredPatches, split
from dinotile.training.flatdino.probe import probe, table
from dinotile.training.flatdino.run import task_of
from dinotile.training.flatdino.settings import FlatTraining
from dinotile.training.flatdino.task import FILE, free_of_decay

CPU = torch.device("cpu")
NAMES = ("fast-16-nn-16", "fast-16-nn-8555-nd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for pictures, features and runs")
    parser.add_argument("--names", nargs="+", default=NAMES, help="of experiments")
    parser.add_argument("--minutes", type=float, default=8.0, help="of computing, for each name")
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--held", type=int, default=200)
    parser.add_argument("--probes", type=int, default=40, help="of each shape, half of them to learn from")
    parser.add_argument("--muon", action="store_true", help="train by the demo's optimiser, not by the package's AdamW")
    parser.add_argument("--alone", action="store_true", help="without baselines and probes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    train, held = (
        encoded(options.folder / name, range(first, first + count))
        for name, first, count in (("train", 0, options.pictures), ("held", 10**6, options.held))
    )
    known, asked = (
        classes(options.folder / name, first=first, count=options.probes // 2)
        for name, first in (("known", 2 * 10**6), ("asked", 3 * 10**6))
    )
    figures: dict[str, Any] = {}
    for name in options.names:
        path = trained(name, train, options.folder / name, minutes=options.minutes, muon=options.muon)
        flat = load_flat(path)
        scores = evaluate(flat, held, fit=None if options.alone else train, device=CPU)
        probes = [] if options.alone else probe(flat, known, asked, device=CPU)
        print(name, *lines(scores), *(table(probes) if probes else []), sep="\n")
        figures[name] = {
            "steps": flat.provenance["steps"],
            "restored": [score.values() for score in scores],
            "probes": [asdict(each) for each in probes],
        }
    publish({"about": about(CPU), "figures": figures}, options.json)


def encoded(folder: Path, numbers: range) -> StoredPatches:
    """The world's sources of these numbers, and the demo's DINO's features of them; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        draw(folder / f"{number:07d}.png", world.scene(np.random.default_rng(number)))
    return with_features(folder)


def classes(folder: Path, *, first: int, count: int) -> StoredPatches:
    """Scenes of one object, in a folder for each shape, and the demo's DINO's features of them."""
    draw_classes(folder, first=first, count=count)
    return with_features(folder)


def draw_classes(folder: Path, *, first: int, count: int) -> None:
    """So many scenes of one object of each shape; their numbers begin at ``first``."""
    left = {shape: count for shape in range(len(world.SHAPES))}
    number = first
    while any(left.values()):
        scene = world.scene(np.random.default_rng(number))
        thing = scene.things[0]
        if left[thing.shape]:
            place = folder / world.TEXTURES[thing.shape]
            place.mkdir(parents=True, exist_ok=True)
            draw(place / f"{number:07d}.png", world.Scene((thing,), scene.light, scene.ground))
            left[thing.shape] -= 1
        number += 1


def draw(path: Path, scene: world.Scene) -> None:
    if not path.exists():
        Image.fromarray((scene.source() * 255).round().astype(np.uint8)).save(path)


def with_features(folder: Path) -> StoredPatches:
    precompute(folder, [DinoRecipe(load_dino(demo.DINO), EncodeSettings(layers="last"))])
    return StoredPatches([folder], family="dinov2")


def trained(name: str, data: StoredPatches, folder: Path, *, minutes: float, muon: bool = False) -> Path:
    """The file of a run of so many minutes."""
    train, held = split(len(data), seed=0)
    settings = FlatTraining(batch=32, steps=10**6, learning_rate=2e-3, ema=0.99, precision="no", device="cpu")
    task = task_of(
        parse(name),
        settings,
        data=data,
        train=train,
        looked=data,
        held=held,
        path=folder / FILE,
        device=CPU,
        processes=Processes(),
    )
    task.settings = task.settings.model_copy(update={"warmup": 50})
    free = free_of_decay(tuple(task.parameters))
    optimizer = (
        optimizers(task.model, lr=1e-2, keep=tuple(free))
        if muon
        else [adamw(task.parameters, task.settings, device=CPU, free=free)]
    )
    trainer = Trainer(task, task.settings, optimizers=optimizer, minutes=minutes, least=0.0, hold=0.6)
    fit(trainer, OutputSettings(folder=str(folder), tensorboard=False, save_every=50, validate_every=50, keep=1))
    return folder / FILE


if __name__ == "__main__":
    main()
