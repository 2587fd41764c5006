"""The trainable part: from DINO features to what FLUX's blocks can attend to."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..dino.encode import EncodeSettings
from ..dino.feature_map import FeatureMap, Scales, encoded_how
from ..dino.specs import DinoSpec
from .families import FAMILIES, Mechanism, ModelFamily
from .geometry import FluxGeometry, rotate
from .tokens import DinoTokens

if TYPE_CHECKING:  # most adapters have none, and the host's start waits for imports
    from ..dino.compress.config import FlatConfig

log = logging.getLogger("dinotile")
MOST_GRID = 128  # tokens per side: of a tile of 2048 px, one for each of FLUX's
MISSING = {  # why a family may not have a mechanism
    "vector": "adds to the pooled text vector, which {} has not",
    "context": "adds tokens to the text, which {} mixes with the others before anything can weigh them",
}
YOUNGER = ("crops", "scales", "flat")  # than version 2 of the files, which leave them out where they are as ever


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter was made for.

    dino, layers: the encoder's spec name and canonical layer text. dino_width: of its features. crops, scales: of
    ``EncodeSettings``.
    width: of the adapter's tokens. grid: DINO tokens per side of a tile. context_grid: pooled patches per side that join
    the text. context_hidden: width of the hidden layer on the way to the text, 0 for none. sites: the blocks that get
    cross-attention, ``double.0`` ... ``single.0`` ... positions: whether queries and DINO keys carry their
    places (RoPE). flat: a FlatDINO whose latents of the whole picture go with the tokens of every tile.
    """

    dino: str
    dino_width: int
    layers: str
    geometry: FluxGeometry
    width: int = 1024
    grid: int = 16
    context_grid: int = 4
    mechanisms: tuple[Mechanism, ...] = ("cross_attention",)
    sites: tuple[str, ...] = ()
    normalisation: str = "spatial"
    context_hidden: int = 0
    positions: bool = True
    provenance: dict[str, Any] = field(default_factory=dict)
    crops: int = 1
    scales: Scales = "averaged"
    flat: FlatConfig | None = None

    def __post_init__(self) -> None:
        for name, value in (("width", self.width), ("grid", self.grid), ("context_grid", self.context_grid)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} {value!r} must be a whole number of at least 1")
        if self.grid > MOST_GRID:
            raise ValueError(f"grid {self.grid} must be at most {MOST_GRID}: usually 8 to 32")
        for name, kind in (("dino", str), ("layers", str), ("positions", bool), ("scales", str)):
            if type(getattr(self, name)) is not kind:
                raise ValueError(f"{name} {getattr(self, name)!r} must be {'text' if kind is str else 'true or false'}")
        if type(self.crops) is not int:
            raise ValueError(f"crops {self.crops!r} must be a whole number: 1 or 2")
        EncodeSettings(layers=self.layers, crops=self.crops, scales=self.scales)  # refuses what goes not together
        if self.flat is not None:
            self.flat.check(
                dino=self.dino, how=self.how, width=self.dino_width, grid=self.flat.grid, name="the adapter's features"
            )
        if type(self.context_hidden) is not int or self.context_hidden < 0:
            raise ValueError(f"context_hidden {self.context_hidden!r} must be a whole number: 0 for no hidden layer")
        if self.context_grid > self.grid:
            raise ValueError(
                f"context_grid {self.context_grid} must be at most grid {self.grid}: pooling makes fewer tokens"
            )
        known = self.family.mechanisms
        for mechanism in self.mechanisms:
            if mechanism in MISSING and mechanism not in known:
                raise ValueError(
                    f"mechanism {mechanism!r} {MISSING[mechanism].format(self.family.title)}: choose {' or '.join(known)}"
                )
            if mechanism not in known:
                raise ValueError(f"mechanism {mechanism!r} must be one of {', '.join(known)}")
        if not self.mechanisms:
            raise ValueError(f"an adapter without mechanisms does nothing: name at least one of {', '.join(known)}")
        possible = all_sites(self.geometry)
        wrong = [site for site in self.sites if site not in possible]
        if wrong or len(set(self.sites)) != len(self.sites):
            raise ValueError(
                f"sites {', '.join(map(str, self.sites))} must be different blocks of {self._ranges()}: leave the others out"
            )
        if ("cross_attention" in self.mechanisms) != bool(self.sites):
            raise ValueError("cross_attention needs sites and sites need cross_attention: give both or neither")
        if self.normalisation != "spatial":
            raise ValueError(f"normalisation {self.normalisation!r} is unknown, 'spatial' is allowed: update DINOTile")

    @property
    def family(self) -> ModelFamily:
        return FAMILIES[self.geometry.family]

    @property
    def encode(self) -> EncodeSettings:
        """How a picture is encoded for the adapter, at any ``side``."""
        return EncodeSettings(layers=self.layers, crops=self.crops, scales=self.scales)

    @property
    def tokens(self) -> int:
        """That a tile's image tokens attend to: CLS, patches, and those of the whole picture."""
        return 1 + self.grid**2 + self.shared

    @property
    def shared(self) -> int:
        """Tokens of the whole picture."""
        return 0 if self.flat is None else self.flat.tokens

    @property
    def how(self) -> str:
        """``encoded_how`` of the features that it was made for."""
        return encoded_how(self.layers, self.crops, self.scales)

    def values(self) -> dict[str, Any]:
        """As nested mappings, such as a file's header holds."""
        usual = {each.name: each.default for each in fields(self) if each.name in YOUNGER}
        values = {**asdict(self), "flat": None if self.flat is None else self.flat.values()}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}

    @property
    def depths(self) -> list[float]:
        """Relative depth of each site, 0 first block to 1 last block."""
        order = all_sites(self.geometry)
        return [order.index(site) / max(1, len(order) - 1) for site in self.sites]

    def _ranges(self) -> str:
        counts = ((kind.name, self.geometry.blocks(kind.name)) for kind in self.family.blocks)
        return " and ".join(f"{name}.0 to {name}.{count - 1}" for name, count in counts)


def adapter_config(
    dino: DinoSpec,
    geometry: FluxGeometry,
    *,
    layers: str,
    crops: int = 1,
    scales: Scales = "averaged",
    mechanisms: Sequence[Mechanism] = ("cross_attention",),
    sites: tuple[str, ...] | None = None,
    grid: int = AdapterConfig.grid,
    context_grid: int = AdapterConfig.context_grid,
    **sizes: Any,
) -> AdapterConfig:
    """Of an adapter for a DINO model, its features (``EncodeSettings``) and a FLUX.

    sites: None for the default ones, where the mechanisms use sites. context_grid: at most the grid is taken. sizes: width and
    so on of ``AdapterConfig``.
    """
    if "cross_attention" not in mechanisms:
        sites = ()
    if context_grid > grid and "context" in mechanisms:
        log.info("context_grid is lowered to %d, the grid: pooling cannot make more tokens", grid)
    encode = EncodeSettings(layers=layers, crops=crops, scales=scales)
    return AdapterConfig(
        dino=dino.name,
        dino_width=encode.width(dino),
        layers=encode.canonical(dino),
        crops=crops,
        scales=scales,
        grid=grid,
        context_grid=min(context_grid, grid),
        geometry=geometry,
        mechanisms=tuple(mechanisms),
        sites=spread_sites(geometry) if sites is None else sites,
        **sizes,
    )


def all_sites(geometry: FluxGeometry) -> list[str]:
    """Names of all blocks in the order of the network."""
    kinds = [kind.name for kind in FAMILIES[geometry.family].blocks]
    return [f"{kind}.{number}" for kind in kinds for number in range(geometry.blocks(kind))]


def spread_sites(geometry: FluxGeometry, *, double_every: int = 2, single_every: int = 4) -> tuple[str, ...]:
    """Every n-th block of each kind, 0 for none. The defaults have as many sites as PuLID has at FLUX.1's size."""
    every = {"double": double_every, "single": single_every}
    return tuple(
        f"{kind}.{number}"
        for kind, step in every.items()
        for number in (range(0, geometry.blocks(kind), step) if step else ())
    )


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
