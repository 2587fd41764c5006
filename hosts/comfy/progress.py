"""Progress on ComfyUI's bar, and the user's interrupt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.utils

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEWS = 50  # per run
Interrupted = comfy.model_management.InterruptProcessingException


def wants_previews() -> bool:
    """Whether the user has the host show any."""
    import latent_preview  # here, because the host's start waits for what is imported above

    return latent_preview.args.preview_method != latent_preview.LatentPreviewMethod.NoPreviews


def only_interrupts(stage: str, done: float, total: float, note: str = "") -> None:
    """A ``files.progress.Progress`` that shows nothing."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class HostProgress:
    """A ``files.progress.Progress``, shown on the running node; raises ``Interrupted`` where the user interrupts.

    draw: a picture of how far it is, ``PREVIEWS`` times. parts: how much of the node's work each stage is, in their order;
    without, every stage fills the bar anew. preview: the host's picture to show with the next call.

    Of a bar the host shows the first and the last call, and of those between one in a tenth of a second: so each stage has a
    bar of its own, and its beginning is always seen.
    """

    def __init__(self, draw: Callable[[], Image] | None = None, *, parts: Mapping[str, int] | None = None) -> None:
        self.bar: Any = None
        self.stage = ""
        self.draw, self.drawn = draw, 0
        self.parts = parts
        self.preview: Any = None

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        if self.parts is not None:
            before = sum(self.parts[name] for name in takewhile(lambda name: name != stage, self.parts))
            done, total = round(before + self.parts[stage] * done / total), sum(self.parts.values())
        part = int(PREVIEWS * done / total)
        if self.draw is not None and part > self.drawn:
            self.drawn, self.preview = part, ("PNG", self.draw(), None)
        if stage != self.stage:
            self.bar, self.stage = comfy.utils.ProgressBar(total), stage
        preview, self.preview = self.preview, None
        self.bar.update_absolute(done, total, preview)
        comfy.model_management.throw_exception_if_processing_interrupted()
