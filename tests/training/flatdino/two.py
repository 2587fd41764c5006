"""In each of the two processes that test_spread.py starts: trainings that leave their files for it to compare."""

import json
import math
import os
import shutil
import sys
from pathlib import Path

import torch

from dinotile.cli.app import app
from dinotile.training.core.config import OutputSettings
from dinotile.training.core.loop import fit
from dinotile.training.core.processes import Processes, held, launched
from dinotile.training.core.trainer import NotFiniteError, Trainer

from .tiny import MAKER, NAME, opened, trainer

SOURCE = ("--features", "dinov2", "--encoder", MAKER, "--device", "cpu")
SMALL = ("--batch", "4", "--steps", "3", "--log-every", "1", "--validate-every", "3")
STEPS, CUT = 3, 2
ADAPTER = "adapter.yaml"
KINDS = {
    "clipped": {"name": "fast-4-pp-6-er2", "clip": 0.05},
    "fp16": {
        "name": "fast-4-pp-8555-nd",
        "precision": "fp16",
    },  # one row of its learned tokens is no two processes' own
}


def command(place: Path, folder: str) -> list[str]:
    return ["flatdino", "train", NAME, str(place / "data"), *SOURCE, *SMALL, "-o", str(place / folder)]


def begun(place: Path, kind: str, folder: str, *, processes: Processes) -> Trainer:
    return trainer(
        opened(place / "data"),
        place / folder,
        processes=processes,
        steps=STEPS,
        batch=8,
        gpu_batch=2,
        learning_rate=1e-3,
        **KINDS[kind],
    )


def trained(place: Path, kind: str, folder: str, *, processes: Processes, cut: bool = False) -> Trainer:
    """A whole run in ``place / folder``, or one that is stopped after ``CUT`` steps; it goes on from what is there."""
    run = begun(place, kind, folder, processes=processes)
    output = OutputSettings(folder=str(place / folder), tensorboard=False, log_every=1, validate_every=STEPS)
    fit(run, output, should_stop=lambda: cut and run.done == CUT - 1)
    return run


def spread(place: Path, kind: str, folder: str, *, cut: bool = False) -> bool:
    """``trained`` with a part in each process, which notes how much it holds; whether this is the first one."""
    shards, _ = launched("cpu", shards=2)
    run = trained(place, kind, folder, processes=shards, cut=cut)
    (place / f"{folder}, {shards.number}.json").write_text(json.dumps(size(run)))
    return shards.first


def spoilt(place: Path, folder: str) -> None:
    """A run that meets a gradient which is not finite, in the last process's part alone; what each says of it is kept."""
    shards, _ = launched("cpu", shards=2)
    run = begun(place, "clipped", folder, processes=shards)
    if not shards.first:
        parameter = run.parameters["decoder.head.weight"]
        parameter.register_post_accumulate_grad_hook(lambda each: held(each.grad).fill_(math.nan) if run.done else None)
    try:
        fit(run, OutputSettings(folder=str(place / folder), tensorboard=False))
    except NotFiniteError as error:
        (place / f"{folder}, {shards.number}.txt").write_text(str(error))


def size(run: Trainer) -> int:
    """Bytes of parameters, gradients, average and what AdamW remembers that this process holds."""
    moments = [each for state in run.optimizers[0].state.values() for each in state.values() if each.ndim]
    gradients = [parameter.grad for parameter in run.parameters.values()]
    tensors = [*run.parameters.values(), *gradients, *run.average.weights.values(), *moments]
    return sum(held(tensor.detach()).untyped_storage().nbytes() for tensor in tensors)


def main(place: Path) -> None:
    assert torch.cuda.is_available() or launched("auto")[0].count == 2, "none of them takes itself for the only one"
    os.environ["ACCELERATE_USE_CPU"] = "1"
    app(["train", str(place / ADAPTER)], standalone_mode=False)
    del os.environ["ACCELERATE_USE_CPU"]
    for count in ("1", "2"):
        app([*command(place, f"command {count}"), "--fsdp", count], standalone_mode=False)
    spread(place, "fp16", "fp16 in two")
    spread(place, "clipped", "clipped in two")
    if spread(place, "clipped", "clipped in parts", cut=True):
        shutil.copytree(place / "clipped in parts", place / "clipped to one")
    spread(place, "clipped", "clipped in parts")
    spread(place, "clipped", "clipped from one")
    spoilt(place, "spoilt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
