"""The running average of the weights, which is what a run exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """An exponential moving average of parameters; ``decay`` 0 is the parameters themselves."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def follow(self, *, step: int) -> None:
        """Move towards the parameters; the decay rises with the steps done, so that the start is soon forgotten."""
        share = 1 - min(self.decay, step / (step + 9))
        for name, parameter in self.parameters.items():
            self.weights[name].lerp_(parameter, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averaged weights in the parameters for a while, without gradient, to look at what would be exported."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        write(self.parameters, self.weights)
        try:
            with torch.no_grad():
                yield
        finally:
            write(self.parameters, kept)


@torch.no_grad()
def write(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Give parameters, or an average of them, the values of ``weights``."""
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
