"""A picture of features: principal components as colours."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .feature_map import FeatureMap


def pca_picture(features: FeatureMap, *, height: int, width: int) -> Tensor:
    """The three strongest principal components of the patches as RGB, [B, height, width, 3] in 0..1.

    Colours are shared by the batch and the same in every run: each component's largest weight counts as positive.
    """
    patches = features.patches.double().flatten(0, 2)  # [B * h * w, D]
    centred = patches - patches.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, -3:].flip(1)  # [D, 3]
    strongest = axes.abs().argmax(dim=0, keepdim=True)
    values = centred @ (axes * axes.gather(0, strongest).sign())  # [B * h * w, 3]
    low, high = values.quantile(0.02, dim=0), values.quantile(0.98, dim=0)
    spread = high - low
    flat = spread <= 1e-6 * centred.abs().max()  # no structure left: grey, not amplified rounding
    values = torch.where(flat, 0.5, (values - low) / spread.where(~flat, 1))
    colours = values.clamp(0, 1).float().view(*features.patches.shape[:3], 3)
    out = F.interpolate(colours.movedim(3, 1), size=(height, width), mode="bilinear")
    return out.movedim(1, 3)  # [B, height, width, 3]
