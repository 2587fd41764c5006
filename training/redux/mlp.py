"""A hidden layer that starts as the ridge solution and goes on from there by gradient descent."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...files.progress import Progress
from ..core.config import OptimisationSettings, OutputSettings
from ..core.loop import fit as run
from ..core.random import item_at
from ..core.task import Task
from ..core.trainer import Trainer
from .ridge import Linear
from .store import TokenStore

BATCH = 16  # pictures
LEARNING_RATE = 3e-4
PATIENCE = 4  # epochs without a better error before it stops


class Refined(nn.Module):
    """x [..., D] -> down(silu(up(x))) [..., C], with 4 D hidden units.

    silu(u) - silu(-u) = u, so units in pairs of opposite sign carry a linear map exactly; the other half starts random
    and without a say.
    """

    def __init__(self, linear: Linear, *, seed: int) -> None:
        super().__init__()
        inputs, outputs = linear.weight.shape
        self.epochs = 0  # after which the weights were best
        self.up = nn.Linear(inputs, 4 * inputs)
        self.down = nn.Linear(4 * inputs, outputs)
        eye, weight = torch.eye(inputs), linear.weight.T.float()  # [C, D]
        noise = torch.randn(2 * inputs, inputs, generator=torch.Generator().manual_seed(seed)) / math.sqrt(inputs)
        with torch.no_grad():
            self.up.weight.copy_(torch.cat([eye, -eye, noise]))
            self.up.bias.zero_()
            self.down.weight.copy_(torch.cat([weight, -weight, torch.zeros(outputs, 2 * inputs)], dim=1))
            self.down.bias.copy_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.up(x)))

    def layers(self) -> dict[str, Tensor]:
        """The weights under the adapter's names."""
        named = {"context_hidden": self.up, "context": self.down}
        return {f"{name}.{key}": tensor for name, layer in named.items() for key, tensor in layer.state_dict().items()}


class RefineTask(Task):
    """The squared error over the pictures ``fit``; it keeps the weights with the least error over the pictures ``choose``,
    which may be the ones at the start. A row is a picture, ``validate`` ends an epoch."""

    def __init__(
        self, model: Refined, store: TokenStore, *, fit: Sequence[int], choose: Sequence[int], seed: int
    ) -> None:
        self.model, self.store, self.fit, self.choose, self.seed = model, store, fit, choose, seed
        self.parameters = dict(model.named_parameters())
        self.device = model.up.weight.device
        self.epoch, self.least, self.best = 0, self._error(), copy.deepcopy(model.state_dict())
        self.scale = self.least or 1.0  # so that the loss begins near 1 whatever the units of the targets

    def rows(self, slots: Sequence[int], *, step: int, total: int) -> list[tuple[Tensor, Tensor]]:
        """Inputs [T, D] and targets [T, C]."""
        at = (item_at(step * total + slot, count=len(self.fit), seed=self.seed) for slot in slots)
        return [self._pair(self.fit[index]) for index in at]

    def losses(self, rows: Sequence[tuple[Tensor, Tensor]], *, watch: bool) -> dict[str, Tensor]:
        x, y = (torch.stack(tensors) for tensors in zip(*rows, strict=True))  # [B, T, D], [B, T, C]
        return {"loss": (self.model(x) - y).square().sum(2).mean(1) / self.scale}

    def validate(self) -> dict[str, float]:
        self.epoch += 1
        error = self._error()
        if error < self.least:
            self.least, self.model.epochs = error, self.epoch
            self.best = copy.deepcopy(self.model.state_dict())
        return {"error": error}

    def stale(self) -> bool:
        """Whether it has not got better for long enough."""
        return self.epoch - self.model.epochs >= PATIENCE

    def export(self, *, steps: int, rows_per_step: int) -> None:
        """``fit_redux`` writes the file."""

    @torch.no_grad()
    def _error(self) -> float:
        """Mean over tokens of |y - prediction|^2."""
        pairs = (self._pair(index) for index in self.choose)
        return sum(float((self.model(x) - y).square().sum(1).mean()) for x, y in pairs) / len(self.choose)

    def _pair(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.store.read(index)
        return x.to(self.device), y.to(self.device)


def refine(
    linear: Linear,
    store: TokenStore,
    *,
    fit: Sequence[int],
    choose: Sequence[int],
    epochs: int,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Refined:
    """AdamW from ``linear`` on, with a cosine rate after one epoch of warm-up, until the error stops falling."""
    with torch.inference_mode(False), torch.enable_grad():  # a host may be in inference mode
        model = Refined(linear, seed=seed).to(device)
        task = RefineTask(model, store, fit=fit, choose=choose, seed=seed)
        batch = min(BATCH, len(fit))
        steps = math.ceil(len(fit) / batch)  # of an epoch
        settings = OptimisationSettings(
            steps=epochs * steps, batch=batch, learning_rate=LEARNING_RATE, warmup=steps, ema=0.0, clip=0.0
        )

        def tell(stage: str, done: float, total: float, note: str = "") -> None:
            if progress is not None:
                progress("hidden layer", done / steps, epochs, note)

        output = OutputSettings(validate_every=steps)
        run(Trainer(task, settings, least=0.0), output, progress=tell, should_stop=task.stale)
        model.load_state_dict(task.best)
        return model.cpu().requires_grad_(False)
