"""A hidden layer that starts as the ridge solution and goes on from there by gradient descent."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...files.progress import Progress
from .ridge import Linear
from .store import TokenStore

BATCH = 16  # pictures
LEARNING_RATE = 3e-4
PATIENCE = 4  # epochs without a better error before it stops


class Refined(nn.Module):
    """x [n, D] -> down(silu(up(x))) [n, C], with 4 D hidden units.

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
    """AdamW on the squared error over the pictures ``fit``, from ``linear`` on, with a cosine rate after one epoch of warm-up.

    The weights are those with the least error over the pictures ``choose``, which may be the ones at the start.
    """
    with torch.inference_mode(False), torch.enable_grad():  # a host may be in inference mode
        model = Refined(linear, seed=seed).to(device)
        optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        batches = math.ceil(len(fit) / BATCH)
        rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step + 1, batches, epochs * batches))
        generator = torch.Generator().manual_seed(seed)
        least, best = _error(model, store, choose, device), copy.deepcopy(model.state_dict())
        scale = least or 1.0  # so that the loss begins near 1 whatever the units of the targets
        for epoch in range(1, epochs + 1):
            order = torch.randperm(len(fit), generator=generator).tolist()
            for start in range(0, len(fit), BATCH):
                x, y = _batch(store, [fit[index] for index in order[start : start + BATCH]], device)
                loss = (model(x) - y).square().sum(1).mean() / scale
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                rate.step()
            error = _error(model, store, choose, device)
            if error < least:
                least, best, model.epochs = error, copy.deepcopy(model.state_dict()), epoch
            if progress is not None:
                progress("hidden layer", epoch, epochs)
            if epoch - model.epochs >= PATIENCE:
                break
        model.load_state_dict(best)
        return model.cpu().requires_grad_(False)


def _rate(step: int, warmup: int, steps: int) -> float:
    if step <= warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _batch(store: TokenStore, pictures: Sequence[int], device: torch.device | str) -> tuple[Tensor, Tensor]:
    pairs = [store.read(index) for index in pictures]
    x, y = (torch.cat(tensors).to(device) for tensors in zip(*pairs, strict=True))  # [n, D], [n, C]
    return x, y


@torch.no_grad()
def _error(model: Refined, store: TokenStore, pictures: Sequence[int], device: torch.device | str) -> float:
    """Mean over tokens of |y - prediction|^2."""
    errors = []
    for index in pictures:
        x, y = _batch(store, [index], device)
        errors.append(float((model(x) - y).square().sum(1).mean()))
    return sum(errors) / len(errors)
