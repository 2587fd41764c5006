"""How close restored patches come."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...dino.compress.config import FlatConfig
from .losses import cosines, restored


class Tally:
    """Sums over pictures. cosine: mean over patches. huber: delta 1, mean over numbers.

    explained: 1 - |x - found|^2 / |x - mean|^2, where mean is that of each channel over all patches of all pictures: 0 for a
    constant, 1 for what is restored exactly.
    """

    def __init__(self) -> None:
        self.pictures, self.patches = 0, 0
        self.cosine = self.huber = self.error = self.square = 0.0
        self.sum: Tensor | float = 0.0  # [D]
        self.codes: set[int] = set()

    def add(self, found: Tensor, true: Tensor) -> None:
        """[B, h, w, D] each."""
        found, true = found.detach().double().cpu(), true.detach().double().cpu()
        self.pictures += len(true)
        self.patches += true[..., 0].numel()
        self.cosine += float(cosines(found, true).double().sum())
        self.huber += float(restored(found[:, None], true[:, None]).double().sum())
        self.error += float((found - true).square().sum())
        self.square += float(true.square().sum())
        self.sum = self.sum + true.sum((0, 1, 2))

    def note_codes(self, codes: Tensor) -> None:
        """codes: [B, T]."""
        self.codes.update(torch.unique(codes).tolist())

    def numbers(self, config: FlatConfig | None = None) -> dict[str, float]:
        """The means; with quantised latents also the share of all codes that occurred, ``codes``."""
        if not self.pictures:
            raise ValueError("no picture could be used: check the data")
        mean = torch.as_tensor(self.sum) / self.patches
        spread = self.square - self.patches * float(mean.square().sum())
        told = {
            "cosine": self.cosine / self.pictures,
            "huber": self.huber / self.pictures,
            "explained": 1 - self.error / max(spread, 1e-12),
        }
        return told | ({"codes": len(self.codes) / math.prod(config.levels)} if config and config.levels else {})
