"""The trainable part: from DINO features to what FLUX's blocks can attend to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..dino.encode import EncodeSettings
from ..dino.feature_map import FeatureMap
from ..dino.specs import DinoSpec
from .adapter_config import AdapterConfig
from .families import Mechanism
from .geometry import FluxGeometry, rotate
from .tokens import DinoTokens


class PatchProjector(nn.Module):
    """Spatial normalisation ``(x - share * mean) / std`` over the picture's patches, then a 3x3 convolution.

    iREPA, arXiv 2512.10794: the spatial structure of the features counts, and the class token is kept apart.
    """

    def __init__(self, dino_width: int, width: int, *, operations: Any) -> None:
        super().__init__()
        self.mean_share = nn.Parameter(torch.empty(1))
        self.conv = operations.Conv2d(dino_width, width, 3, padding=1)

    def forward(self, patches: Tensor) -> Tensor:
        x = rearrange(patches, "b h w d -> b d h w")
        mean = x.mean((2, 3), keepdim=True)
        std = (x.var((2, 3), keepdim=True, correction=0) + 1e-6).sqrt()
        x = (x - self.mean_share.to(x) * mean) / std
        return rearrange(self.conv(x), "b c h w -> b h w c")


class Site(nn.Module):
    """Cross-attention of one FLUX block to the DINO tokens; FLUX's own normalised queries, a normalised key, a free value."""

    def __init__(self, width: int, geometry: FluxGeometry, *, operations: Any) -> None:
        super().__init__()
        self.k = operations.Linear(width, geometry.hidden, bias=False)
        self.v = operations.Linear(width, geometry.hidden, bias=False)
        self.k_norm = operations.RMSNorm(geometry.head_width, eps=1e-6, elementwise_affine=True)

    def keys(self, sequence: Tensor, *, rotation: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Rotated keys and values [B, H, M, D] of DINO tokens [B, M, C]; the same at every noise level."""
        k = rearrange(self.k(sequence), "b m (h d) -> b h m d", h=heads)
        v = rearrange(self.v(sequence), "b m (h d) -> b h m d", h=heads)
        return rotate(self.k_norm(k), rotation), v

    def forward(self, q: Tensor, sequence: Tensor, *, q_rotation: Tensor, key_rotation: Tensor) -> Tensor:
        """q: [B, H, N, D] before rotation. sequence: [B, M, C]. Returns [B, N, H * D]."""
        k, v = self.keys(sequence, rotation=key_rotation, heads=q.shape[1])
        out = F.scaled_dot_product_attention(rotate(q, q_rotation), k, v)
        return rearrange(out, "b h n d -> b n (h d)")


class SiteGate(nn.Module):
    """One factor per site and noise level: 1 plus a small network of sigma that starts at zero."""

    CHANNELS = 128

    def __init__(self, sites: int, *, operations: Any) -> None:
        super().__init__()
        self.hidden = operations.Linear(self.CHANNELS, self.CHANNELS)
        self.out = operations.Linear(self.CHANNELS, sites)

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma: [B] in 0..1. Returns [B, sites]."""
        half = self.CHANNELS // 2
        frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=sigma.device))
        angles = 1000 * sigma.float()[:, None] * frequencies
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)  # [B, CHANNELS]
        return 1 + self.out(F.silu(self.hidden(embedding.to(self.hidden.weight.dtype))))


class DinoAdapter(nn.Module):
    """DINO tokens for FLUX: projector, cross-attention sites, context tokens, modulation vector, learned nulls.

    ``operations`` gives the layer classes: ``torch.nn``, or the host's, which cast and offload. A fresh adapter
    (``checkpoint.new_adapter``) has zero values, so that it changes nothing until it is trained. What is known of a file's
    weights is in ``LoadedAdapter``.
    """

    def __init__(self, config: AdapterConfig, *, operations: ModuleType | Any = nn) -> None:
        super().__init__()
        self.config = config
        geometry, width = config.geometry, config.width
        self.patches = PatchProjector(config.dino_width, width, operations=operations)
        self.cls_norm = operations.LayerNorm(config.dino_width)
        self.cls = operations.Linear(config.dino_width, width)
        self.null_patch = nn.Parameter(torch.empty(width))
        self.null_cls = nn.Parameter(torch.empty(width))
        if config.flat is not None:
            from .shared import SharedTokens

            self.shared = SharedTokens(config.flat, width, operations=operations)
            self.null_shared = nn.Parameter(torch.empty(width))
        if "cross_attention" in config.mechanisms:
            self.sites = nn.ModuleDict(
                {name.replace(".", "_"): Site(width, geometry, operations=operations) for name in config.sites}
            )
            self.gate = SiteGate(len(config.sites), operations=operations)
        if "context" in config.mechanisms:
            self.context_norm = operations.LayerNorm(width)
            if config.context_hidden:
                self.context_hidden = operations.Linear(width, config.context_hidden)
            self.context = operations.Linear(config.context_hidden or width, geometry.context)
        if "vector" in config.mechanisms:
            self.vector_norm = operations.LayerNorm(width)
            self.vector = operations.Linear(width, geometry.vector)

    def site(self, name: str) -> Site:
        return self.sites[name.replace(".", "_")]  # type: ignore[return-value]

    def check_encoder(self, spec: str, how: str) -> None:
        """ValueError where features of this DINO model, made so (``FeatureMap.how``), are not those that the adapter needs."""
        if (spec, how) != (self.config.dino, self.config.how):
            raise ValueError(
                f"the features come from {spec} layers {how}, the adapter was made for {self.config.dino} layers "
                f"{self.config.how}: load that DINO model and choose those layers, crops and scales"
            )

    def check_dino(self, spec: DinoSpec, settings: EncodeSettings) -> None:
        """The same before anything is encoded; another model's layers are not even looked at."""
        known = spec.name == self.config.dino
        self.check_encoder(spec.name, settings.how(spec) if known else settings.layers)

    def check_geometry(self, geometry: FluxGeometry) -> None:
        if geometry != self.config.geometry:
            raise ValueError(
                f"the model has {geometry}, the adapter was made for {self.config.geometry}: "
                f"load the FLUX model that the adapter was trained on, or another adapter"
            )

    def project(self, features: FeatureMap) -> DinoTokens:
        """A picture's features [B, h, w, D] to tokens [B, h, w, C], once; ValueError for another encoder's, or for tokens."""
        if isinstance(features, DinoTokens):
            raise ValueError(
                "DINO tokens were given where features are projected: project a picture's features once only"
            )
        self.check_encoder(features.spec, features.how)
        shared = None if self.config.flat is None else self.shared(features.patches)
        return DinoTokens(self.patches(features.patches), self.cls(self.cls_norm(features.cls)), shared)

    def null(self) -> Tensor:
        """The learned sequence of a region without DINO, [M, C]."""
        parts = [self.null_cls[None], self.null_patch.expand(self.config.grid**2, -1)]
        if self.config.flat is not None:
            parts.append(self.null_shared.expand(self.config.shared, -1))
        return torch.cat(parts)

    def context_tokens(self, sequence: Tensor) -> Tensor:
        """[CLS | patches | shared] of regions [B, M, C] to text tokens [B, 1 + context_grid^2, context], of the former two."""
        grid, small = self.config.grid, self.config.context_grid
        patches = rearrange(sequence[:, 1 : 1 + grid**2], "b (h w) c -> b c h w", h=grid)
        pooled = rearrange(F.adaptive_avg_pool2d(patches, small), "b c h w -> b (h w) c")
        text = self.context_norm(torch.cat([sequence[:, :1], pooled], dim=1))
        if self.config.context_hidden:
            text = F.silu(self.context_hidden(text))
        return self.context(text)

    def vector_delta(self, sequence: Tensor) -> Tensor:
        """[CLS | ...] of regions to what is added to the pooled text vector, [B, vector]."""
        return self.vector(self.vector_norm(sequence[:, 0]))


@dataclass(frozen=True, eq=False)
class LoadedAdapter:
    """An adapter, and what ``checkpoint.py`` found out about its weights when it read or made them.

    fingerprint: of configuration and weights. trained: as its file says. idle: mechanisms whose output weights are all zero.
    """

    module: DinoAdapter
    fingerprint: str
    trained: bool
    idle: frozenset[str]

    def __repr__(self) -> str:
        made = f"{self.config.dino} layers {self.config.how}, {' and '.join(self.config.mechanisms)}"
        trained = "trained" if self.trained else "untrained"
        return f"LoadedAdapter({made}, {trained}, fingerprint={self.fingerprint!r})"

    @property
    def config(self) -> AdapterConfig:
        return self.module.config

    def has(self, mechanism: Mechanism) -> bool:
        """Whether the mechanism exists and can have an effect. In training every existing one can."""
        return mechanism in self.config.mechanisms and (self.module.training or mechanism not in self.idle)
