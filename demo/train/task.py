"""What the demo's trainings share: a task of the trainer whose rows are whole batches, minutes, and the file format."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ...files.weights import write_weights
from ...files.writing import make_folder
from ...training.core.config import OptimisationSettings, OutputSettings
from ...training.core.loop import fit
from ...training.core.random import generator_for
from ...training.core.task import Task
from ...training.core.trainer import Trainer

log = logging.getLogger("dinotile")
Batch = Callable[[float], Any]  # drawn from torch's own generator, by the share of the run that is done
Loss = Callable[[Any], Tensor]  # of a batch, one number
Write = Callable[[int, float], None]  # of the module's file, after so many steps and with that mean loss


class DemoTask(Task):
    """Trains those parameters of ``module`` that want a gradient. A row is a batch."""

    def __init__(self, module: nn.Module, *, batch: Batch, loss: Loss, write: Write, seed: int) -> None:
        self.module, self.batch, self.loss, self.write, self.seed = module, batch, loss, write, seed
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.device = torch.device("cpu")
        self.share: Callable[[], float] = lambda: 0.0
        self.running = 0.0

    def rows(self, slots: Sequence[int], *, step: int, total: int) -> list[Any]:
        torch.manual_seed(generator_for(self.seed, "batch", step).initial_seed())
        return [self.batch(self.share())]

    def losses(self, rows: Sequence[Any], *, watch: bool) -> dict[str, Tensor]:
        loss = self.loss(rows[0])
        self.running += 0.01 * (loss.item() - self.running) if self.running else loss.item()
        return {"loss": loss[None]}

    def export(self, *, steps: int, rows_per_step: int) -> None:
        self.module.eval()
        self.write(steps, self.running)
        self.module.train()


def train_for(
    module: nn.Module,
    optimizers: Sequence[Optimizer],
    *,
    batch: Batch,
    loss: Loss,
    write: Write,
    minutes: float,
    seed: int,
    folder: Path | None = None,
    ema: float = 0.998,
    save_every: int = 200,
) -> None:
    """For ``minutes`` of computing, with the learning rates of the optimisers as peaks; writes the file now and then and at
    the end, in evaluation mode and with averaged weights. folder: for checkpoints and log; such a run goes on where it was
    stopped."""
    task = DemoTask(module, batch=batch, loss=loss, write=write, seed=seed)
    settings = OptimisationSettings(warmup=40, ema=ema, clip=1.0)
    trainer = Trainer(task, settings, optimizers=optimizers, minutes=minutes, least=0.02)
    task.share = lambda: trainer.share
    fit(trainer, OutputSettings(folder=str(folder or ""), save_every=save_every, keep=1, tensorboard=False))


def write(path: Path, tensors: dict[str, Tensor], *, steps: int, seed: int, trained_by: str = "demo/train.py") -> None:
    """Saves float16 safetensors with the demo's metadata; scalars keep their dtype. Replaces the file at once."""
    tensors = {key: t.half() if t.ndim else t for key, t in tensors.items()}
    about = {"format": "pt", "dinotile": "demo", "trained_by": trained_by, "steps": str(steps), "seed": str(seed)}
    make_folder(path.parent)
    write_weights(path, tensors, about)
