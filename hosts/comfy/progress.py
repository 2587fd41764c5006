"""Progress on ComfyUI's bar, and the user's interrupt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import comfy.model_management
import comfy.utils

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEWS = 50  # per run
Interrupted = comfy.model_management.InterruptProcessingException


def only_interrupts(stage: str, done: float, total: float, note: str = "") -> None:
    """A ``files.progress.Progress`` that shows nothing."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class HostProgress:
    """A ``files.progress.Progress``, shown on the running node; raises ``Interrupted`` where the user interrupts.

    draw: a picture of how far it is, ``PREVIEWS`` times.
    """

    def __init__(self, draw: Callable[[], Image] | None = None) -> None:
        self.bar = comfy.utils.ProgressBar(1)
        self.draw, self.drawn = draw, 0

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        preview, part = None, int(PREVIEWS * done / total)
        if self.draw is not None and part > self.drawn:
            self.drawn, preview = part, ("PNG", self.draw(), None)
        self.bar.update_absolute(done, total, preview)
        comfy.model_management.throw_exception_if_processing_interrupted()
