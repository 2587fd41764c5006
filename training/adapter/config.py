"""What a training run is told: one YAML file, checked once, every unknown key named."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from ..core.config import OptimisationSettings, OutputSettings, Range, check, check_range, from_mapping, read_yaml
from ..data.settings import DataSettings, DegradationSettings

Sites = Union[tuple[int, ...], int, None]  # noqa: UP007  (get_type_hints reads it on Python 3.10)


@dataclass(frozen=True)
class ModelSettings:
    """The frozen models. variant: demo, schnell or dev. model_path, vae_path, dino: a .safetensors file, a folder or a hub
    name; empty: the variant's. layers: of DINO, as in ``EncodeSettings``. guidance: of FLUX.1 dev, fixed while training."""

    variant: Literal["demo", "schnell", "dev"] = "demo"
    model_path: str = ""
    vae_path: str = ""
    dino: str = ""
    layers: str = "2/3"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = False
    guidance: float = 1.0
    device: str = "auto"

    def __post_init__(self) -> None:
        check("model.guidance", self.guidance, 0 <= self.guidance < math.inf, "a number of at least 0, usually 1")


@dataclass(frozen=True)
class AdapterSettings:
    """The adapter to train, as in ``AdapterConfig``. double_sites, single_sites: block numbers, or n for every n-th block
    (0: none); left out: every 2nd double and every 4th single block. warm_start: an adapter file to begin from."""

    mechanisms: tuple[Literal["cross_attention", "context", "vector"], ...] = ("cross_attention",)
    width: int = 1024
    grid: int = 16
    context_grid: int = 4
    double_sites: Sites = None
    single_sites: Sites = None
    positions: bool = True
    warm_start: str = ""

    def __post_init__(self) -> None:
        for name in ("double_sites", "single_sites"):
            sites = getattr(self, name)
            allowed = not isinstance(sites, int) or sites >= 0
            check(f"adapter.{name}", sites, allowed, "a list of block numbers, n for every n-th block, or 0 for none")


@dataclass(frozen=True)
class ConditionSettings:
    """Shares of the cases (they sum to 1). weak: share of the pictures whose features come from a much worse source.
    feature_noise: standard deviation of noise on the features, which have unit scale; usually 0 to 0.2. from_source: share
    of the rows that begin, as an upscaler does, at the source that DINO sees, with noise, and not at the noisy picture.
    start: the noise levels at which they begin (sigmas, after any shift of the schedule), usually 0.2 and more: below, what
    the source lacks outweighs everything else. Their noise levels are drawn from 0 to there, whatever ``sigma`` is.
    dino_guidance: classifier-free guidance by DINO that the adapter learns to bring along, so that an upscaling has most of it
    without a second evaluation; 1 (none) to about 3. Above 1 a step evaluates FLUX once more, without gradient."""

    none: float = 0.10
    text: float = 0.30
    dino: float = 0.05
    both: float = 0.55
    weak: float = 0.1
    feature_noise: float = 0.0
    from_source: float = 0.0
    start: Range = (0.2, 0.6)
    dino_guidance: float = 1.0

    def __post_init__(self) -> None:
        shares = (self.none, self.text, self.dino, self.both)
        allowed = min(shares) >= 0 and math.isclose(sum(shares), 1, abs_tol=1e-6)
        check("conditions none, text, dino, both", shares, allowed, "shares that sum to 1")
        check("conditions.weak", self.weak, 0 <= self.weak <= 1, "a share from 0 to 1")
        check("conditions.from_source", self.from_source, 0 <= self.from_source <= 1, "a share from 0 to 1")
        check_range("conditions.start", self.start, 0.05, 1)
        guided = 1 <= self.dino_guidance < math.inf
        check("conditions.dino_guidance", self.dino_guidance, guided, "a number of at least 1, usually 1 to 3")
        for case, without in (("dino", "none"), ("both", "text")):
            if self.dino_guidance > 1 and getattr(self, case) and not getattr(self, without):
                raise ValueError(
                    f"conditions.dino_guidance compares {case} with {without}, and conditions.{without} is 0: raise it"
                )
        noise = self.feature_noise
        check("conditions.feature_noise", noise, 0 <= noise < math.inf, "a number of at least 0, usually 0 to 0.2")


@dataclass(frozen=True)
class TrainConfig:
    """Everything about a run; only ``data.path`` and ``output.folder`` have no default that works."""

    model: ModelSettings = field(default_factory=ModelSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    data: DataSettings = field(default_factory=DataSettings)
    conditions: ConditionSettings = field(default_factory=ConditionSettings)
    degradation: DegradationSettings = field(default_factory=DegradationSettings)
    optimisation: OptimisationSettings = field(default_factory=OptimisationSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    def __post_init__(self) -> None:
        if self.conditions.from_source and self.data.features:
            raise ValueError(
                "conditions.from_source needs the source that DINO sees, and data.features are of another: set one of them"
            )
        precision = {"float32": "", "bfloat16": "bf16", "float16": "fp16"}[self.model.dtype]
        if precision and self.optimisation.precision != precision:
            raise ValueError(
                f"model.dtype {self.model.dtype} with optimisation.precision {self.optimisation.precision!r} mixes dtypes: "
                f"set the precision to {precision}"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_config(path: str | Path) -> TrainConfig:
    """Read a YAML file; ValueError in one sentence for what is no file, no YAML or no configuration."""
    return read_yaml(path, TrainConfig)


def config_from(values: dict[str, Any]) -> TrainConfig:
    """A configuration from nested mappings; ValueError that names every unknown key or the first wrong value."""
    return from_mapping(values, TrainConfig)
