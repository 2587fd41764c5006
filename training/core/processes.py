"""The processes of a run: ``accelerate``'s, or this one alone."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Processes(Protocol):
    """What the trainer needs of ``accelerate.Accelerator``."""

    @property
    def num_processes(self) -> int: ...

    @property
    def process_index(self) -> int: ...

    def reduce(self, tensor: Tensor, reduction: str) -> Any: ...

    def wait_for_everyone(self) -> None: ...


class SingleProcess:
    """One process without ``accelerate``."""

    num_processes = 1
    process_index = 0

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        return tensor

    def wait_for_everyone(self) -> None:
        pass


def add_up(tensors: list[Tensor], processes: Processes) -> None:
    """Replace each tensor by its sum over the processes, all in one message."""
    if processes.num_processes == 1:
        return
    total = processes.reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="sum")
    for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
