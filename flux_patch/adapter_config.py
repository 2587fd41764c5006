"""What an adapter was made for: its encoder, its FLUX, its mechanisms and sizes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..dino.encode import EncodeSettings
from ..dino.feature_map import Scales, encoded_how
from ..dino.specs import DinoSpec
from .families import FAMILIES, Mechanism, ModelFamily
from .geometry import FluxGeometry

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
