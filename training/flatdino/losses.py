"""The loss of a FlatDINO: how far restored patches are, and how far latents are from a standard normal distribution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...dino.compress.bottleneck import Latents
from .name import Experiment


def restored(found: Tensor, true: Tensor) -> Tensor:
    """Huber's loss with delta 1, mean over all numbers of a layer: [B, layers] of [B, layers, h, w, D] each."""
    return F.huber_loss(found.float(), true.float(), reduction="none").mean((2, 3, 4))


def cosines(found: Tensor, true: Tensor) -> Tensor:
    """Mean over patches of their cosine, [B] of [B, h, w, D] each."""
    return F.cosine_similarity(found.float(), true.float(), dim=-1).mean((1, 2))


def divergence(latents: Latents, experiment: Experiment, *, share: Tensor) -> Tensor:
    """The loss of latents [B, T, F] beside what is restored, [B]; 0 where they have no distribution.

    share: of the weight of the divergence at this step, [B]. With free bits each number's divergence counts from there on only.
    ``kl_variance`` weighs the variance over tokens of a token's divergence, so that no token stays idle.
    """
    if latents.kl is None:
        return share * 0
    counted = latents.kl.clamp(min=experiment.free_bits)  # [B, T, F]
    loss = share * experiment.kl * counted.sum((1, 2))
    if experiment.kl_variance:
        loss = loss + experiment.kl_variance * latents.kl.sum(2).var(1, unbiased=False)
    return loss
