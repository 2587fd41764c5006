"""Progress on ComfyUI's bar."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils


class HostProgress:
    """A ``files.progress.Progress``, shown on the running node; raises where the user interrupts.

    preview: a picture to show with the next call, as the host's bar takes it.
    """

    def __init__(self) -> None:
        self.bar = comfy.utils.ProgressBar(1)
        self.preview: Any = None

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        self.bar.update_absolute(done, total, self.preview)
        self.preview = None
        comfy.model_management.throw_exception_if_processing_interrupted()
