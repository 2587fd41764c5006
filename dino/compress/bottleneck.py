"""What an encoder's tokens go through to become latents: noise (VAE), nothing, or rounding (FSQ)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .config import FlatConfig

SMALLEST, LARGEST = -30.0, 20.0  # of a logarithm of a variance, so that its exponent is finite


class Latents(NamedTuple):
    """values: [B, T, F]. kl: how far each number's distribution is from a standard normal one, in nats, [B, T, F] and 0 or more;
    None where there is no distribution."""

    values: Tensor
    kl: Tensor | None = None


class Gaussian(nn.Module):
    """The VAE's (arXiv 1312.6114): a mean and a logarithm of the variance for each number."""

    def __init__(self, features: int, *, tanh: bool) -> None:
        super().__init__()
        self.inputs, self.tanh = 2 * features, tanh

    def forward(self, raw: Tensor, noise: Tensor | None = None) -> Latents:
        """raw: [B, T, 2 F]. noise: [B, T, F], standard normal; None for the mean. ``tanh`` bounds what is drawn."""
        mean, log = raw.float().chunk(2, dim=-1)
        log = log.clamp(SMALLEST, LARGEST)
        values = mean if noise is None else mean + noise * (log / 2).exp()
        return Latents(values.tanh() if self.tanh else values, (mean.square() + log.exp() - 1 - log) / 2)


class Plain(nn.Module):
    """A deterministic autoencoder's."""

    def __init__(self, features: int, *, tanh: bool) -> None:
        super().__init__()
        self.inputs, self.tanh = features, tanh

    def forward(self, raw: Tensor, noise: Tensor | None = None) -> Latents:
        """raw: [B, T, F]. noise is not used."""
        return Latents(raw.float().tanh() if self.tanh else raw.float())


class Quantised(nn.Module):
    """Finite scalar quantisation (arXiv 2309.15505) with a straight-through gradient; by vector-quantize-pytorch."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.inputs = len(levels)
        with torch.device("cpu"):  # what it keeps is computed, not stored, so it cannot be made without memory
            self.fsq: Any = _fsq(levels)

    def forward(self, raw: Tensor, noise: Tensor | None = None) -> Latents:
        """raw: [B, T, L]. noise is not used."""
        return Latents(self.fsq(raw.float())[0])

    def codes(self, values: Tensor) -> Tensor:
        """The number of each token's combination of levels: [B, T], int64, from 0."""
        return self.fsq.codes_to_indices(values).long()

    def values(self, codes: Tensor) -> Tensor:
        """What ``codes`` [B, T] came from: [B, T, L]."""
        return self.fsq.indices_to_codes(codes)


def bottleneck_of(config: FlatConfig) -> Gaussian | Plain | Quantised:
    if config.levels:
        return Quantised(config.levels)
    kind = Plain if config.deterministic else Gaussian
    return kind(config.features, tanh=config.tanh)


def _fsq(levels: tuple[int, ...]) -> nn.Module:
    try:
        from vector_quantize_pytorch import FSQ  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError(
            f"levels {levels} need vector-quantize-pytorch, which is not installed: "
            'pip install "dinotile[flatdino]", or take continuous latents'
        ) from error
    return FSQ(list(levels), return_indices=False)  # without a table of all codes
