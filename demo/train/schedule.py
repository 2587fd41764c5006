"""What the trainings share: a clock that sets the learning rate, averaged weights, and the file format."""

import copy
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...files.weights import write_weights
from ...files.writing import make_folder

log = logging.getLogger("dinotile")


class Clock:
    """Counts steps until `minutes` have passed; the learning rate follows the share of time used.

    The number of steps, and so the exact weights, depend on the machine's speed; the seed fixes everything else."""

    def __init__(self, minutes: float, *, save_every: float = 120) -> None:
        self.minutes, self.save_every = minutes, save_every
        self.step = 0

    def steps(self, optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[float]:
        """Yields the share of time used (0..1) before each step, with the learning rates set (cosine, short warm-up)."""
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        peaks = [group["lr"] for group in groups]
        self._start = self._saved = time.monotonic()
        while (done := (time.monotonic() - self._start) / (60 * self.minutes)) < 1:
            share = min(1.0, (self.step + 1) / 40) * (0.51 + 0.49 * math.cos(math.pi * done))
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * share
            self.step += 1
            yield done

    def should_save(self) -> bool:
        """True once every `save_every` seconds."""
        due = time.monotonic() - self._saved > self.save_every
        if due:
            self._saved = time.monotonic()
        return due


class Average:
    """Exponential moving average of a module's weights; `.module` is the copy to export."""

    def __init__(self, module: nn.Module, *, decay: float = 0.998) -> None:
        self.module, self.decay = copy.deepcopy(module).requires_grad_(False).eval(), decay

    @torch.no_grad()
    def update(self, source: nn.Module, *, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.module.parameters(), source.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)


def descend(module: nn.Module, loss: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """One step of gradient descent."""
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def write(path: Path, tensors: dict[str, Tensor], *, steps: int, seed: int, trained_by: str = "demo/train.py") -> None:
    """Saves float16 safetensors with the demo's metadata; scalars keep their dtype. Replaces the file at once."""
    tensors = {key: t.half() if t.ndim else t for key, t in tensors.items()}
    about = {"format": "pt", "dinotile": "demo", "trained_by": trained_by, "steps": str(steps), "seed": str(seed)}
    make_folder(path.parent)
    write_weights(path, tensors, about)
