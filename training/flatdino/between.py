"""``dinotile flatdino interpolate``: what lies between the latents of two pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from ...dino.compress.checkpoint import LoadedFlat
from ...dino.feature_map import FeatureMap
from ...dino.views import pca_picture

CELL = 16  # px of a patch in the strip


@torch.no_grad()
def strip(flat: LoadedFlat, first: Tensor, second: Tensor, *, steps: int) -> Tensor:
    """Patches [h, w, D] of two pictures, as they are and as they are restored, with ``steps`` restorations from latents between.

    Each is shown by three principal components that all share. [3, H, W] in 0..1; ValueError for a number of steps below 0.
    """
    if steps < 0:
        raise ValueError(f"steps {steps} must be 0 or more: usually 5")
    device = next(flat.module.parameters()).device
    ends = torch.stack([first, second]).to(device)  # [2, h, w, D]
    latents = flat.module.encode(ends)
    shares = torch.linspace(0, 1, steps + 2, device=device)[:, None, None]
    restored = flat.module.decode(latents[:1] * (1 - shares) + latents[1:] * shares)
    return row(torch.cat([ends[:1], restored, ends[1:]]))


def row(patches: Tensor) -> Tensor:
    """Patches [n, h, w, D] as pictures side by side, coloured by three principal components that all share: [3, H, W] in 0..1."""
    patches = patches.float().cpu()
    height, width = (side * CELL for side in patches.shape[1:3])
    features = FeatureMap(patches, torch.zeros(len(patches), patches.shape[3]), "", "", (height, width))
    pictures = pca_picture(features, height=height, width=width)  # [n, H, W, 3]
    return torch.cat(list(pictures.movedim(3, 1)), dim=2)
