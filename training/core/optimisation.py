"""AdamW, its learning rate, the averaged weights, and the size of the gradient by part."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .config import OptimisationSettings

PARTS = ("patches", "cls", "sites", "gate", "context", "vector", "null")  # how the parameters' names begin
Parameters = Mapping[str, nn.Parameter]


def learning_rate(settings: OptimisationSettings, *, step: int) -> float:
    """A linear warm-up times a cosine from 1 to 0.1 over all steps, counted from 0."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    return settings.learning_rate * warm * (0.55 + 0.45 * math.cos(math.pi * min(1.0, step / settings.steps)))


def adamw(parameters: Parameters, settings: OptimisationSettings, *, device: torch.device) -> torch.optim.AdamW:
    """Weight decay on matrices and kernels only: nulls, norms and biases are free."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    others = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=device.type in ("cpu", "cuda"))


def moments(optimizer: torch.optim.AdamW, parameters: Parameters) -> dict[str, Tensor]:
    """What AdamW remembers, on the CPU: ``step.``, ``exp_avg.`` and ``exp_avg_sq.`` with the parameter's name."""
    return {
        f"{kind}.{name}": tensor.detach().to("cpu", copy=True)
        for name, parameter in parameters.items()
        for kind, tensor in optimizer.state[parameter].items()
    }


def restore_moments(optimizer: torch.optim.AdamW, parameters: Parameters, kept: Mapping[str, Tensor]) -> None:
    """``kept`` is empty where no step has reached AdamW yet."""
    counts_on_device = optimizer.defaults["fused"]
    for name, parameter in parameters.items() if kept else ():
        optimizer.state[parameter] = {
            kind: kept[f"{kind}.{name}"].to("cpu" if kind == "step" and not counts_on_device else parameter.device)
            for kind in ("step", "exp_avg", "exp_avg_sq")
        }


@torch.no_grad()
def follow(average: Mapping[str, Tensor], parameters: Parameters, *, decay: float, step: int) -> None:
    """Move the averaged weights; the decay rises with the steps done, so that the start is soon forgotten."""
    share = 1 - min(decay, step / (step + 9))
    for name, parameter in parameters.items():
        average[name].lerp_(parameter, share)


def part_norms(parameters: Parameters) -> dict[str, float]:
    """Gradient norm of each part of the adapter."""
    squares: dict[str, list[Tensor]] = {}
    for name, parameter in parameters.items():
        part = next(part for part in PARTS if name.startswith(part))
        squares.setdefault(part, []).append(parameter.grad.square().sum())  # type: ignore[union-attr]
    return {part: float(torch.stack(values).sum().sqrt()) for part, values in squares.items()}
