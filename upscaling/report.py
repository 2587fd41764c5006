"""What a run was and took: sizes, seconds by stage, memory, versions."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from ..files.peak import process_peak
from ..files.progress import Progress
from ..tiling.plan import TilePlan


@contextmanager
def timed(seconds: dict[str, float], stage: str, progress: Progress | None = None) -> Iterator[None]:
    """Add the wall-clock seconds of the block to ``seconds[stage]``, and tell when it begins and ends."""
    start = time.perf_counter()
    if progress is not None:
        progress(stage, 0, 1)
    try:
        yield
    finally:
        seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - start, 3)
    if progress is not None:
        progress(stage, 1, 1)


def sizes(
    pixels: Tensor, size: tuple[int, int], *, plan: TilePlan, laid: TilePlan, batch: int | None
) -> dict[str, dict[str, Any]]:
    """Of the source, its result and the tiles. laid: the plan of a step. batch: tiles per model call, where it is known."""
    return {
        "input": {"height": pixels.shape[-2], "width": pixels.shape[-1], "batch": pixels.shape[0]},
        "output": {"height": size[0], "width": size[1]},
        "canvas": {"height": plan.height, "width": plan.width},
        "tiles": {
            "count": laid.count,
            "rows": len(laid.tops),
            "columns": len(laid.lefts),
            "height": plan.tile_height,
            "width": plan.tile_width,
            "overlap": plan.overlap,
            "sampled_over_canvas": round(laid.work, 4),
            "batch": batch,
        },
    }


def peak_memory(device: torch.device) -> dict[str, int | None]:
    """Largest memory in bytes: of the process so far, and on the GPU since the last ``restart_peak``."""
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"process": process_peak(), "device": cuda}


def model_memory(**models: nn.Module | None) -> dict[str, int]:
    """Bytes of each model's weights, wherever they rest."""
    kept = {name: [*model.parameters(), *model.buffers()] for name, model in models.items() if model is not None}
    return {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in kept.items()}


def restart_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and the versions of what computes on it."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("dinotile", "torch", "diffusers", "transformers", "numpy", "pillow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"versions": versions, "platform": platform.platform(), "device": str(device), "device_name": name}
