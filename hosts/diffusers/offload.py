"""Models that rest in the CPU's memory while they do not compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from ...dino.encode import Backbone
from ..memory import Memory, Value, in_less

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
        self.device, self.offload, self.wanted = device, offload, offload
        self.there: tuple[nn.Module, ...] = ()
        self.models: list[nn.Module] = []
        self.memory = Memory(device)

    def add(self, model: Model) -> Model:
        """The model at the place where it waits for its turn."""
        self.models.append(model)
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

    def relief(self) -> Iterator[str]:
        """For ``in_less``: from now on one model at a time is there, until ``restore``. Nothing, where that is so already."""
        if self.offload == "none" and self.device != torch.device("cpu"):
            self.offload = "model"
            for model in self.models:
                model.to("cpu")
            yield "one model at a time on the device"

    def restore(self) -> None:
        """As it was asked for. Where a move fails, one model at a time is there as before, until the next call."""
        if self.offload == self.wanted:
            return
        try:
            for model in self.models:
                model.to(self.device)
            self.offload = self.wanted
        except Exception:
            for model in self.models:
                model.to("cpu")
            raise
        finally:
            self.there = ()

    def spared(self, work: Callable[[], Value], *, stage: str, model: nn.Module) -> Value:
        """What ``work`` gives, which is that of ``model``; where memory ends, alone on the device."""

        def turn() -> Value:
            self.use(model)
            return work()

        return in_less(turn, stage=stage, ways=self.relief(), memory=self.memory)

    def apart(self, work: Callable[[], Value], *, stage: str) -> Value:
        """What ``work`` gives, which brings models of its own; where memory ends, theirs alone are on the device."""

        def alone() -> Value:
            self.use()
            return work()

        try:
            return in_less(alone, stage=stage, ways=self.relief(), memory=self.memory)
        finally:
            self.memory.free()  # what those models leave behind, for the others, and for who asks how much is free
            self.restore()


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
        return self.turns.spared(partial(self.backbone.hidden, pixels, blocks), stage="dino", model=self.model)


def spread(model: nn.Module, device: torch.device) -> None:
    """Keep a model's weights in the CPU's memory, and bring each layer's to the device for its own forward pass."""
    from accelerate import cpu_offload

    cpu_offload(model, device)
