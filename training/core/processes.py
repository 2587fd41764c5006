"""The processes of a run: ``accelerate``'s, or this one alone."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Processes(Protocol):
    """What the trainer needs of ``accelerate.Accelerator``; the answers here are those of one process without it."""

    @property
    def num_processes(self) -> int:
        return 1

    @property
    def process_index(self) -> int:
        return 0

    def reduce(self, tensor: Tensor, reduction: str) -> Any:
        return tensor

    def wait_for_everyone(self) -> None:
        return


class SingleProcess(Processes):
    """One process without ``accelerate``."""


def add_up(tensors: list[Tensor], processes: Processes) -> None:
    """Replace each tensor by its sum over the processes, all in one message."""
    if processes.num_processes == 1:
        return
    total = processes.reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="sum")
    for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
