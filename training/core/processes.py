"""The processes of a run, and what of the model each of them holds: all of it, here; a part of it, in shards.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .average import Average
from .task import Task


class Processes:
    """Each holds the whole model, and learns by the sum of all gradients. accelerator: an ``accelerate.Accelerator``, None for
    this process alone."""

    def __init__(self, accelerator: Any = None) -> None:
        self.accelerator = accelerator
        self.count, self.number = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.number == 0

    def wait(self) -> None:
        """For all others to come here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def spread(self, model: nn.Module, units: Sequence[nn.Module]) -> None:
        """Take from ``model`` what this process does not hold, before anybody asks for its parameters. units: modules that are
        called in turn and together have all parameters, inner ones first."""

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, all in one message."""
        if self.count == 1:
            return
        total = self.accelerator.reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="sum")
        for tensor, part in zip(tensors, total.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def add_up_rows(self, counts: Tensor, gradients: list[Tensor]) -> None:
        """Replace what the processes found by their own rows by what they found together."""
        self.add_up([counts, *gradients])

    def completed(self, sums: Tensor) -> Tensor:
        """Of sums over what this process holds of the model, those over the whole model."""
        return sums

    def whole(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The model's tensors, or such as are held like them, for a file; all processes ask, the first one gets them."""
        return tensors

    def own(self, tensor: Tensor, *, like: Tensor) -> Tensor:
        """What this process holds of a whole tensor, on the device, as it holds ``like``, of the same shape."""
        return tensor

    def look(self, task: Task, average: Average, at: Callable[[], None]) -> None:
        """Call ``at`` in the first process, with the averaged weights in the task's model."""
        if self.first:
            with average.in_place():
                at()


def held(tensor: Tensor) -> Tensor:
    """What this process has in memory of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def joined(tensor: Tensor) -> Tensor:
    """The whole of a tensor, however it is held; all processes have to ask."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


def launched(device: str, *, shards: int = 1) -> tuple[Processes, torch.device]:
    """Those that ``accelerate launch`` or ``torchrun`` started, or this one alone, and this one's device.

    shards: 1, or their number for each to hold a part of the model. ValueError for any other, and for more than devices.
    """
    from accelerate import Accelerator

    from ...upscaling.device import find_device

    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    on_cpu = asked or device == "cpu" or (device == "auto" and find_device(device).type == "cpu")
    if not on_cpu and torch.cuda.is_available():
        check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), devices=torch.cuda.device_count())
    accelerator = Accelerator(cpu=on_cpu)  # which else takes each process of a machine without a GPU for the only one
    place = find_device(device) if accelerator.num_processes == 1 else accelerator.device
    if shards == 1:
        return Processes(accelerator), place
    if shards != accelerator.num_processes:
        raise ValueError(
            f"--fsdp {shards} spreads the model over {shards} processes, and {accelerator.num_processes} "
            f"{'was' if accelerator.num_processes == 1 else 'were'} started: begin the command with "
            f"torchrun --nproc_per_node {shards} -m dinotile.cli"
        )
    from .shards import Shards

    return Shards(accelerator, place), place


def check_devices(processes: int, *, devices: int) -> None:
    """ValueError for more processes on this machine than GPUs."""
    if processes > devices:
        raise ValueError(
            f"{processes} processes were started for {devices} GPU{'s' if devices > 1 else ''}: start at most {devices}, or "
            "let them compute on the CPU"
        )
