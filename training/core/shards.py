"""Processes that each hold a part of every parameter, and so of its gradient, its average and what the optimiser remembers of it.

By torch's FSDP2: a unit's parameters are gathered when it is called and given up again, and its gradients are added up
and parted as they come. Files have whole tensors, the same as without.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .average import Average
from .processes import Processes, joined
from .task import Task


class Shards(Processes):
    """All of ``accelerator``'s processes, one part for each. ValueError where torch cannot."""

    def __init__(self, accelerator: Any, device: torch.device) -> None:
        super().__init__(accelerator)
        check_torch()
        from torch.distributed.device_mesh import init_device_mesh

        self.device, self.mesh = device, init_device_mesh(device.type, (self.count,))

    def spread(self, model: nn.Module, units: Sequence[nn.Module]) -> None:
        from torch.distributed.fsdp import fully_shard

        # Of views that a unit returns, which must not be changed in place; no task does.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        self.copy = copy.deepcopy(model)
        _empty(self.copy)
        self.copy.to(self.device)
        for unit in units:
            sharded: Any = fully_shard(unit, mesh=self.mesh)
            sharded.set_gradient_divide_factor(1.0)  # a row's share of the loss is of the rows of all processes already
            sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction
        left = [name for name, parameter in model.named_parameters() if not hasattr(parameter, "placements")]
        assert not left, left

    def add_up_rows(self, counts: Tensor, gradients: list[Tensor]) -> None:
        self.add_up([counts])

    def completed(self, sums: Tensor) -> Tensor:
        self.add_up([sums])
        return sums

    def whole(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One after another, so that a device never has more than one of them whole."""
        found = {}
        for name, tensor in tensors.items():
            together = joined(tensor.detach())
            if self.first:
                found[name] = together.cpu()
        return found

    def own(self, tensor: Tensor, *, like: Any) -> Tensor:
        from torch.distributed.tensor import distribute_tensor

        place = tensor.to(self.device)
        return distribute_tensor(place, like.device_mesh, like.placements, src_data_rank=None)  # all have read the file

    def look(self, task: Task, average: Average, at: Callable[[], None]) -> None:
        """In a whole copy of the model, as the first process is alone with it."""
        weights = self.whole(average.weights)
        if not self.first:
            return
        for name, parameter in self.copy.named_parameters():
            parameter.data = weights[name].to(self.device)
        owner: Any = task
        trained, owner.model = owner.model, self.copy
        try:
            with torch.no_grad():
                at()
        finally:
            owner.model = trained
            _empty(self.copy)


def check_torch() -> None:
    """ValueError for a torch that is too old."""
    try:
        from torch.distributed.fsdp import FSDPModule

        enough = hasattr(FSDPModule, "set_force_sum_reduction_for_comms")
    except ImportError:
        enough = False
    if not enough:
        raise ValueError(
            f"--fsdp needs a torch with FSDP2 that can add gradients up, and {torch.__version__} has none: update torch, or "
            "leave --fsdp out"
        )


def _empty(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)
