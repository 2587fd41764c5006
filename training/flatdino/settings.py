"""What a FlatDINO training is told beside its name."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from ..core.config import (
    Count,
    Decay,
    Natural,
    Number,
    OptimisationSettings,
    OutputSettings,
    Positive,
    Seed,
    Settings,
    Share,
)
from .name import Experiment

Kernel = Literal["auto", "math", "flash", "efficient", "cudnn"]
WARM_EPOCHS = 5  # in which the learning rate rises
AT_ONCE = 64  # rows that a process computes together, where nobody says


class FlatData(Settings):
    """Pictures with the DINO that encodes them, or features that were stored."""

    path: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    dino: str = ""
    features: Literal["", "dinov2", "dinov3"] = ""
    encoder: str = ""
    layers: str = "last"
    side: Natural = 0
    memory: Number = 2.0

    @model_validator(mode="after")
    def _one_source(self) -> FlatData:
        if bool(self.dino) == bool(self.features):
            both = "are both given" if self.dino else "are both left out"
            raise ValueError(
                f"--dino and --features {both}: give a DINO that sees the pictures, or what is stored beside them"
            )
        if self.encoder and not self.features:
            raise ValueError(
                "--encoder says what made stored features, and --features is left out: give both or neither"
            )
        return self


class FlatTraining(Settings):
    """batch: pictures of a step, over all processes. gpu_batch: of them, what a process computes at once; 0: chosen.
    steps: instead of the epochs that the name says; 0 for those. fsdp: processes that hold a part of the model each; 1: all of
    them hold it whole."""

    batch: Count = 512
    gpu_batch: Natural = 0
    steps: Natural = 0
    learning_rate: Share = 1e-4
    weight_decay: Share = 0.02
    ema: Decay = 0.999
    clip: Number = 10.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    attention: Kernel = "auto"
    device: str = "auto"
    fsdp: Positive = 1
    seed: Seed = 0


class FlatRun(Settings):
    """All of it, in sections, as ``from_mapping`` reads them."""

    data: FlatData
    training: FlatTraining = FlatTraining()
    output: OutputSettings = OutputSettings()


class GeneratorRun(Settings):
    """Of a generator's training."""

    optimisation: OptimisationSettings = OptimisationSettings()
    output: OutputSettings = OutputSettings()


def optimisation_of(
    training: FlatTraining, experiment: Experiment, *, pictures: int, processes: int
) -> OptimisationSettings:
    """The trainer's settings for so many pictures and processes; ValueError where the batch cannot be divided among them."""
    share, odd = divmod(training.batch, processes)
    rows = training.gpu_batch or max((n for n in range(1, AT_ONCE + 1) if share % n == 0), default=1)
    if odd or share % rows:
        raise ValueError(
            f"batch {training.batch} cannot be divided into {rows} rows at once in {processes} processes: choose --batch as a "
            "multiple of --gpu-batch-size times the processes"
        )
    epochs = experiment.schedule.epochs
    steps = training.steps or math.ceil(epochs * pictures / training.batch)
    return OptimisationSettings(
        steps=steps,
        batch=rows,
        accumulation=share // rows,
        learning_rate=training.learning_rate,
        warmup=steps * WARM_EPOCHS // epochs,
        weight_decay=training.weight_decay,
        ema=training.ema,
        clip=training.clip,
        seed=training.seed,
        precision=training.precision,
    )
