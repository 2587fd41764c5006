"""Tokens of the whole picture that every tile sees beside its own region: a FlatDINO's latents."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..dino.compress.config import FlatConfig
from ..dino.compress.model import FlatEncoder


class SharedTokens(nn.Module):
    """Patches of a picture to ``config.tokens`` tokens as wide as the adapter's. The FlatDINO stays as it was trained: its
    weights are buffers, which no optimiser finds, and lie in the adapter's file."""

    def __init__(self, config: FlatConfig, width: int, *, operations: Any) -> None:
        super().__init__()
        self.grid = tuple(config.grid)
        self.flat = FlatEncoder(config)
        for module in self.flat.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
        self.norm = operations.LayerNorm(config.features)
        self.out = operations.Linear(config.features, width)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, h, w, D] -> [B, T, C]; patches of another grid than the FlatDINO's are first resized to it."""
        x = patches.movedim(-1, 1)
        if tuple(x.shape[-2:]) != self.grid:
            x = F.interpolate(x.float(), self.grid, mode="bilinear", antialias=True)
        dtype = next(self.flat.buffers()).dtype
        latents = self.flat.to(patches.device).encode(x.movedim(1, -1).to(dtype))  # the host may have left it elsewhere
        return self.out(self.norm(latents.to(patches.dtype)))
