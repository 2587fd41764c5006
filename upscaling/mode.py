"""Whether a picture's tiles run together or one after the other."""

from __future__ import annotations

from typing import Literal

from ..files.memory import available_memory
from ..tiling.canvas import scaled_size
from .forecast import canvas_bytes
from .sequential import joint_only
from .settings import UpscaleSettings


def mode_for(
    settings: UpscaleSettings, *, height: int, width: int, kept: bool = False, whole: bool = False
) -> Literal["joint", "sequential"]:
    """How a picture of that size is upscaled: as the settings say, and where they leave it open one tile after the other if tiles
    are kept, or if the forecast for the whole canvas is more than the memory that is free. Settings that need the whole canvas
    have it, and so has who needs the whole result."""
    if settings.mode != "auto":
        return settings.mode
    if kept:
        return "sequential"
    room = available_memory()
    needed = canvas_bytes(scaled_size(height, width, scale=settings.scale))
    if whole or room is None or needed <= room or joint_only(settings):
        return "joint"
    return "sequential"
