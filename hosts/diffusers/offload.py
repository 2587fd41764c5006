"""Models that rest in the CPU's memory while they do not compute."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from ...dino.encode import Backbone

Offload = Literal[
    "none", "model", "sequential"
]  # all stay on the device; one is there at a time; each layer for itself
Model = TypeVar("Model", bound=nn.Module)


def check_offload(offload: str, device: torch.device) -> None:
    """ValueError for an unknown word, and where there is no other memory than the device's."""
    if offload not in get_args(Offload):
        raise ValueError(f"offload {offload!r} must be one of {', '.join(get_args(Offload))}")
    if offload != "none" and device.type == "cpu":
        raise ValueError(
            f"offload {offload} keeps models in the CPU's memory, and device {device} computes there: leave offload out, "
            "or choose a GPU (--device cuda)"
        )


class Turns:
    """Which of several models is on the device: all of them, or with offloading the one whose turn it is.

    accelerate's ``cpu_offload_with_hook`` is not used for it: it acts at ``forward``, which the halves of a VAE and the blocks
    of a DINO do without, and it knows one predecessor, where a VAE comes before FLUX and after it.
    """

    def __init__(self, device: torch.device, offload: Offload) -> None:
        self.device, self.offload = device, offload
        self.there: tuple[nn.Module, ...] = ()

    def add(self, model: Model) -> Model:
        """The model at the place where it waits for its turn."""
        return model.to("cpu" if self.offload != "none" else self.device)

    def add_in_parts(self, model: Model) -> Model:
        """The same; with offload "sequential" every layer takes its own short turn, by accelerate's hooks."""
        if self.offload == "sequential":
            spread(model, self.device)
        else:
            self.add(model)
        return model

    def use(self, *models: nn.Module) -> None:
        """Let those compute, which do so together, until another one's turn."""
        if self.offload == "none" or models == self.there:
            return
        for place, moving in (("cpu", self.there), (self.device, models)):
            for model in moving:
                if not hasattr(model, "_hf_hook"):
                    model.to(place)
        self.there = models


class TakesTurns:
    """A DINO backbone among ``Turns``."""

    def __init__(self, backbone: Backbone, turns: Turns) -> None:
        self.backbone, self.turns = backbone, turns
        turns.add(backbone.model)

    @property
    def model(self) -> nn.Module:
        return self.backbone.model

    @property
    def device(self) -> torch.device:
        return self.turns.device

    def hidden(self, pixels: Tensor, blocks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        self.turns.use(self.model)
        return self.backbone.hidden(pixels, blocks)


def spread(model: nn.Module, device: torch.device) -> None:
    """Keep a model's weights in the CPU's memory, and bring each layer's to the device for its own forward pass."""
    from accelerate import cpu_offload

    cpu_offload(model, device)
