"""``dinotile flatdino train``: load what is named, and train a FlatDINO on it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ...dino.compress.config import GRID_SIDE
from ...dino.compress.model import new_flat
from ...dino.encode import DinoEncoder
from ...dino.load import load_dino
from ...files.progress import Progress
from ...hosts.diffusers.sources import dino_path
from ...hosts.precision import check_bfloat16
from ..core.loop import fit
from ..core.optimiser import adamw
from ..core.output import check_output
from ..core.processes import Processes, launched
from ..core.trainer import Trainer
from .name import Experiment
from .patches import EncodedPatches, Patches, StoredPatches, split
from .settings import FlatData, FlatRun, FlatTraining, optimisation_of
from .task import FILE, FlatTask, free_of_decay, units_of

log = logging.getLogger("dinotile")


def train(
    experiment: Experiment,
    config: FlatRun,
    *,
    resume: bool = True,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Train a FlatDINO, and return its file.

    Runs in one process, or in each of those that ``accelerate launch`` started. ``resume``: go on from the newest checkpoint
    in the output folder, if there is one; otherwise such a folder is refused. Raises ValueError for what the user can mend.
    """
    path = Path(config.output.folder, FILE)
    check_output(path, resume=resume, setting="--output")
    training = config.training
    processes, device = launched(training.device, shards=training.fsdp)
    if training.precision == "bf16":
        check_bfloat16(device, setting="--precision bf16", instead="take fp16 or no")
    data, looked = open_sources(config.data, experiment.inner, device=device)
    used, held = split(len(data), seed=training.seed) if looked is None else (range(len(data)), range(len(looked)))
    looked = looked or data
    task = task_of(
        experiment,
        training,
        data=data,
        train=used,
        looked=looked,
        held=held,
        path=path,
        device=device,
        processes=processes,
    )
    trainer = trainer_of(task, processes=processes)
    rows = trainer.rows_per_step
    log.info(
        "%d pictures to train on, %d held out, %d steps of %d rows", len(used), len(held), task.settings.steps, rows
    )
    about = {"name": experiment.name, **config.model_dump()}
    fit(trainer, config.output, config=about, resume=resume, progress=progress, should_stop=should_stop)
    return path


def task_of(
    experiment: Experiment,
    training: FlatTraining,
    *,
    data: Patches,
    train: Sequence[int],
    looked: Patches,
    held: Sequence[int],
    path: Path,
    device: torch.device,
    processes: Processes,
) -> FlatTask:
    """A fresh FlatDINO for the patches of ``data``; ``looked`` has to be alike."""
    made = data.made
    config = experiment.config(dino=made.dino, width=made.width, how=made.how, grid=made.grid, inner=made.inner)
    looked.check(config, "the features for validation")
    settings = optimisation_of(training, experiment, pictures=len(train), processes=processes.count)
    model = new_flat(config, seed=training.seed)
    processes.spread(model, units_of(model))
    return FlatTask(
        model,
        experiment,
        settings,
        data=data,
        train=train,
        looked=looked,
        held=held,
        path=path,
        device=device,
        kernel=training.attention,
    )


def trainer_of(task: FlatTask, *, processes: Processes | None = None) -> Trainer:
    """AdamW whose rate stays at its peak and falls to nothing at the end, as the name of the experiment says."""
    optimizer = adamw(task.parameters, task.settings, device=task.device, free=free_of_decay(tuple(task.parameters)))
    hold = 1 - task.experiment.schedule.falling
    return Trainer(task, task.settings, processes=processes, optimizers=[optimizer], least=0.0, hold=hold)


def open_sources(data: FlatData, inner: int, *, device: torch.device) -> tuple[Patches, Patches | None]:
    """The patches to train on and those to look at, None where none are named apart. inner: another block that is wanted."""
    encoder = load_dino(dino_path(data.dino), device=device) if data.dino else None
    found = [open_patches(data, paths, inner, encoder=encoder) for paths in (data.path, data.validation) if paths]
    if not found:
        raise ValueError("no data is named: give a folder of pictures, or tars")
    return found[0], found[1] if found[1:] else None


def open_patches(data: FlatData, paths: Sequence[str], inner: int = 0, *, encoder: DinoEncoder | None) -> Patches:
    """The patches of ``paths`` as ``data`` says, encoded by ``encoder`` if there is one; ValueError where none can be used."""
    if encoder is None:
        if inner:
            raise ValueError(
                f"block {inner} (-il{inner}) is wanted beside the stored layer, and stored features have one layer: give --dino, "
                "which sees the pictures, and not --features"
            )
        return StoredPatches(paths, family=data.features, encoder=data.encoder, memory=int(data.memory * 2**30))
    spec = encoder.spec
    side = data.side or min(GRID_SIDE * spec.patch, spec.max_side)
    return EncodedPatches(paths, encoder, layers=data.layers, side=side, inner=str(inner) if inner else "")
