"""Pairs to learn from: what an adapter's context layer gets for a picture, and the tokens that Redux gives it."""

from __future__ import annotations

import torch
from torch import Tensor

from ...dino.feature_map import FeatureMap
from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.adapter_config import AdapterConfig
from ...flux_patch.checkpoint import new_adapter
from ...flux_patch.rows import WHOLE
from ...flux_patch.tokens import DinoTokens


def passing_adapter(config: AdapterConfig) -> DinoAdapter:
    """A fresh adapter whose tokens are DINO's own: spatially scaled patches with their mean left in, and CLS."""
    adapter = new_adapter(config).module
    with torch.no_grad():
        adapter.patches.mean_share.zero_()
        kernel = adapter.patches.conv.weight.zero_()  # [D, D, 3, 3]
        kernel[:, :, 1, 1] = torch.eye(config.width)
        adapter.cls.weight.copy_(torch.eye(config.width))
    return adapter


def context_inputs(adapter: DinoAdapter, features: FeatureMap) -> Tensor:
    """What the adapter's context layer gets for a whole picture: [1 + grid^2, C], CLS first."""
    with torch.no_grad():
        tokens = adapter.project(features.to(adapter.context.weight.device))
        return adapter.context_norm(tokens.sequence(0, WHOLE, adapter.config.grid))


def context_targets(redux: Tensor, *, grid: int) -> Tensor:
    """Redux's tokens [1, n, n, C] as an adapter should give them: their mean, then grid x grid regions, row by row."""
    return DinoTokens(redux, redux.mean((1, 2))).sequence(0, WHOLE, grid)  # [1 + grid^2, C]
