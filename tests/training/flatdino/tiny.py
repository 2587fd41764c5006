"""Pictures with stored features that few numbers describe, and small trainings on them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinotile.training.core.loop import fit
from dinotile.training.core.processes import Processes
from dinotile.training.core.trainer import Trainer
from dinotile.training.flatdino.name import parse
from dinotile.training.flatdino.patches import Patches, StoredPatches, split
from dinotile.training.flatdino.run import task_of, trainer_of
from dinotile.training.flatdino.settings import FlatTraining
from dinotile.training.flatdino.task import FILE

WIDTH, SIDE = 128, 4  # of dinov2-demo; patches of a side
MAKER = "dinov2-demo last"
NAME = "fast-4-nn-6-hl"


def stored(folder: Path, *, count: int = 24, seed: int = 0, family: str = "dinov2") -> Path:
    """Pictures with plain arrays of patches (16, 128) and CLS (128,), as another maker keeps them."""
    folder.mkdir(parents=True, exist_ok=True)
    world, rng = np.random.default_rng(7), np.random.default_rng(seed)
    basis = world.standard_normal((4, SIDE * SIDE, WIDTH))
    for number in range(count):
        patches = np.tensordot(rng.standard_normal(4), basis, 1).astype(np.float16)
        Image.new("RGB", (8, 8), tuple(rng.integers(0, 256, 3).tolist())).save(folder / f"{number:03d}.png")
        np.save(folder / f"{number:03d}.{family}_patches.npy", patches)
        np.save(folder / f"{number:03d}.{family}.npy", patches.mean(0))
    return folder


def opened(folder: Path) -> StoredPatches:
    return StoredPatches([folder], family="dinov2", encoder=MAKER)


def trainer(
    data: Patches, output: Path, *, name: str = NAME, processes: Processes | None = None, **training
) -> Trainer:
    values = {"batch": 8, "steps": 12, "learning_rate": 3e-3, "ema": 0.5, "device": "cpu"} | training
    train, held = split(len(data), seed=values.get("seed", 0))
    processes = processes or Processes()
    task = task_of(
        parse(name),
        FlatTraining(**values),
        data=data,
        train=train,
        looked=data,
        held=held,
        path=output / FILE,
        device=torch.device("cpu"),
        processes=processes,
    )
    return trainer_of(task, processes=processes)


def run(made: Trainer, output, **options) -> Path:
    fit(made, output, **options)
    return made.task.path
