"""A transformer that says which way latents at a noise level move: the generator's network."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .config import MOST_FEATURES, MOST_TOKENS, SIZES, VitSize
from .vit import Attention, SwiGlu

WAVES = 128  # pairs of the embedding of a noise level
FASTEST = 1000.0  # radians over the range of noise levels


@dataclass(frozen=True)
class DitConfig:
    """For latents [T, F] of the FlatDINO with fingerprint ``flat``. size: a key of ``SIZES``. classes: their names, or none."""

    flat: str
    tokens: int
    features: int
    size: str
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size {self.size!r} must be one of {', '.join(SIZES)}: usually b")
        if not (1 <= self.tokens <= MOST_TOKENS and 1 <= self.features <= MOST_FEATURES):
            raise ValueError(f"latents of {self.tokens} x {self.features} are none of a FlatDINO: check the file")

    def values(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {**asdict(self), "classes": list(self.classes)}


class DitBlock(nn.Module):
    """Attention and a gated layer, each scaled, shifted and gated by the condition (adaLN-Zero, arXiv 2212.09748)."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size.width, elementwise_affine=False)
        self.attention, self.mlp = Attention(size), SwiGlu(size)
        self.modulation = nn.Linear(size.width, 6 * size.width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x: [B, T, C]. condition: [B, C]."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate * self.attention(self.norm(x) * (1 + scale) + shift)
        return x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)


class LatentDit(nn.Module):
    def __init__(self, config: DitConfig) -> None:
        super().__init__()
        self.config, size = config, SIZES[config.size]
        self.embed = nn.Linear(config.features, size.width)
        self.positions = nn.Parameter(torch.empty(config.tokens, size.width))
        self.level = nn.Sequential(nn.Linear(2 * WAVES, size.width), nn.SiLU(), nn.Linear(size.width, size.width))
        self.labels = nn.Embedding(len(config.classes) + 1, size.width)  # the last is for no class
        self.blocks = nn.ModuleList(DitBlock(size) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, elementwise_affine=False)
        self.modulation = nn.Linear(size.width, 2 * size.width)
        self.head = nn.Linear(size.width, config.features)

    @property
    def no_class(self) -> int:
        return len(self.config.classes)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Velocity d x / d sigma [B, T, F] of scaled latents x [B, T, F] at noise levels sigma [B] in 0..1; labels: [B]."""
        rates = FASTEST ** (torch.arange(WAVES, device=x.device) / (WAVES - 1))
        angles = sigma[:, None] * rates  # [B, WAVES]
        condition = self.level(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.labels(labels)
        condition = nn.functional.silu(condition)
        x = self.embed(x) + self.positions
        for block in self.blocks:
            x = block(x, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.head(self.norm(x) * (1 + scale) + shift)


def new_dit(config: DitConfig, *, seed: int = 0) -> LatentDit:
    """Fresh weights by ``seed``; every block, and the output, does nothing at first."""
    model, generator = LatentDit(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            still = "modulation" in name or name.startswith("head")
            if still or name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1:
                parameter.fill_(1.0)
            elif name in ("positions", "labels.weight"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
            else:
                deviation = math.sqrt(2 / sum(parameter.shape))
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    return model
