"""What is trained: all that the loop knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Task(Protocol):
    """A model that learns from rows. Inherit from it: what a task does not need has an answer here.

    parameters: what learns, by name. device: where. measures: names of what ``losses`` tells of a row beside its loss.
    Where processes hold parts of it (shards.py), its ``model`` is a module that has all parameters by the same names.
    """

    parameters: Mapping[str, nn.Parameter]
    device: torch.device
    measures: tuple[str, ...] = ()

    def rows(self, slots: Sequence[int], *, step: int, total: int) -> Sequence[Any]:
        """The rows at ``slots`` of the global batch of a step, which has ``total``; steps count from 0.

        They depend on the step and the slot only, so that a run that was stopped and resumed, or spread over processes,
        does what one uninterrupted process does.
        """
        ...

    def losses(self, rows: Sequence[Any], *, watch: bool) -> dict[str, Tensor]:
        """``loss``, with its gradient, and the ``measures`` of each row, all [B]; watch: for ``details``."""
        ...

    def export(self, *, steps: int, rows_per_step: int) -> None:
        """Write the file that users load, whole or not at all; the averaged weights are in the parameters.

        Raises ValueError where it cannot be written.
        """
        ...

    def case(self, slot: int, *, step: int) -> str:
        """The kind of a row in whichever process, by which losses are reported."""
        return "row"

    def name(self, row: Any) -> str:
        """What a row shows, for a sentence about it: "picture 3.png", or nothing."""
        return ""

    def details(self) -> dict[str, dict[str, float]]:
        """More for the log about the last step, in which ``losses`` was told to watch."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree in to be gone on from; what JSON can hold."""
        return {}

    def begin(self, *, looks: bool) -> None:
        """Raise ValueError before the first step for what would fail later; looks: ``validate`` or ``picture`` will be asked."""

    def validate(self) -> dict[str, float]:
        """Numbers on data that is not trained on, for the log; the averaged weights are in the parameters."""
        return {}

    def picture(self) -> tuple[Tensor, dict[str, Any]] | None:
        """[3, H, W] in 0..1 of what the averaged weights do, which are in the parameters, and numbers about it for the log;
        None for no picture."""
        return None
