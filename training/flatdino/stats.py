"""``dinotile flatdino compute-stats``: mean and variance of latents over a data set."""

from __future__ import annotations

import torch

from ...dino.compress.checkpoint import LoadedFlat
from ...dino.compress.statistics import Statistics, Sums
from ...files.progress import Progress, counted
from .patches import TOGETHER, Patches


@torch.no_grad()
def compute_statistics(
    flat: LoadedFlat, data: Patches, *, device: torch.device, progress: Progress | None = None
) -> Statistics:
    """Of the latents, without noise, of all pictures that can be used; ValueError for another encoder's, and for fewer than 2."""
    data.check(flat.config, "the features")
    sums, model = Sums(), flat.module.to(device)
    for start in counted(range(0, len(data), TOGETHER), "latents", progress):
        for _, patches in data.whole(range(start, min(start + TOGETHER, len(data)))):
            sums.add(model.encode(patches[:, 0].to(device)))
    return sums.result()
