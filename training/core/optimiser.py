"""The optimiser, its rate, what it remembers by the parameters' names, the precision around it, and the gradient by part."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .config import OptimisationSettings
from .processes import Processes, held

Parameters = Mapping[str, nn.Parameter]
PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(settings: OptimisationSettings, *, device: torch.device) -> Any:
    """The precision in which a task computes around its float32 parameters."""
    dtype = PRECISIONS[settings.precision]
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def adamw(
    parameters: Parameters, settings: OptimisationSettings, *, device: torch.device, free: Container[str] = ()
) -> torch.optim.AdamW:
    """Weight decay on matrices and kernels only: nulls, norms and biases are free, and so is what is named in ``free``."""
    decays = {name: parameter.ndim > 1 and name not in free for name, parameter in parameters.items()}
    matrices = [parameter for name, parameter in parameters.items() if decays[name]]
    others = [parameter for name, parameter in parameters.items() if not decays[name]]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=device.type in ("cpu", "cuda"))


def rate_at(share: float, *, step: int, warmup: int, least: float = 0.1, hold: float = 0.0) -> float:
    """The learning rate as a part of its peak: a linear warm-up times a cosine from 1 to ``least``.

    share: of the run, 0 to 1, that is done before the step; step: its number, counted from 0. hold: the share up to which it
    stays at its peak, below 1.
    """
    warm = min(1.0, (step + 1) / max(1, warmup))
    fallen = min(1.0, max(0.0, share - hold) / (1 - hold))
    return warm * ((1 + least) / 2 + (1 - least) / 2 * math.cos(math.pi * fallen))


def memory_of(optimizers: Sequence[Optimizer], parameters: Parameters) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What optimisers remember, as ``KIND.PARAMETER``: their tensors and plain numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, parameter in parameters.items():
        for optimizer in optimizers:
            for kind, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{kind}.{name}"] = value
                else:
                    numbers[f"{kind}.{name}"] = value
    return tensors, numbers


def remember(optimizers: Sequence[Optimizer], parameters: Parameters, memory: Mapping[str, Any]) -> None:
    """Give optimisers what ``memory_of`` gave; torch brings each tensor to where its optimiser needs it."""
    by_name: dict[str, dict[str, Any]] = {}
    for key, value in memory.items():
        kind, _, name = key.partition(".")
        by_name.setdefault(name, {})[kind] = value
    names = {parameter: name for name, parameter in parameters.items()}
    for optimizer in optimizers:
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state = {i: by_name[names[p]] for i, p in enumerate(held) if names[p] in by_name}
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def part_norms(parameters: Parameters, processes: Processes) -> dict[str, float]:
    """Gradient norm of each part of the model: what its parameters' names begin with."""
    squares: dict[str, list[Tensor]] = {}
    for name, parameter in parameters.items():
        squares.setdefault(part_of(name), []).append(held(parameter.grad).square().sum())  # type: ignore[arg-type]
    sums = processes.completed(torch.stack([torch.stack(values).sum() for values in squares.values()]))
    return dict(zip(squares, sums.sqrt().tolist(), strict=True))


def part_of(name: str) -> str:
    """``cls`` of cls_norm.weight, ``sites`` of sites.double_0.k.weight."""
    return name.partition(".")[0].partition("_")[0]
