"""The processes of a run: ``accelerate``'s, or this one alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SingleProcess:
    """What the trainer needs of ``accelerate.Accelerator``, of one process without it."""

    num_processes, process_index = 1, 0

    def wait_for_everyone(self) -> None:
        return


def add_up(tensors: list[Tensor], processes: Any) -> None:
    """Replace each tensor by its sum over the processes, all in one message."""
    if processes.num_processes == 1:
        return
    total = processes.reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="sum")
    for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
