"""What a training run is told: one YAML file, checked once, every unknown key named."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from ..core.config import from_mapping, read_yaml

Range = tuple[float, float]
Sites = Union[tuple[int, ...], int, None]  # noqa: UP007  (get_type_hints reads it on Python 3.10)


def _check(name: str, value: Any, allowed: bool, needed: str) -> None:
    if not allowed:
        shown = list(value) if isinstance(value, tuple) else repr(value)
        raise ValueError(f"{name} is {shown}, needed is {needed}: correct it")


def _check_range(name: str, value: Range, low: float, high: float) -> None:
    _check(name, value, low <= value[0] <= value[1] <= high, f"[low, high] with {low:g} <= low <= high <= {high:g}")


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
        _check("model.guidance", self.guidance, 0 <= self.guidance < math.inf, "a number of at least 0, usually 1")


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
            _check(f"adapter.{name}", sites, allowed, "a list of block numbers, n for every n-th block, or 0 for none")


@dataclass(frozen=True)
class DataSettings:
    """path: a folder of pictures, a tar, or a list or pattern of tars. picture: height and width in px (or one side) of the
    whole pictures that DINO sees. tile: side in px of the window that FLUX gets, 0 for the whole picture. features: "" or the
    family of precomputed features. cache: pictures whose latents and features stay in memory (0: none). windows: cut from
    each picture that is drawn."""

    path: str | tuple[str, ...] = ""
    picture: tuple[int, ...] | int = (1024, 1024)
    tile: int = 512
    flip: bool = True
    features: Literal["", "dinov2", "dinov3"] = ""
    cache: int = 0
    windows: int = 1

    def __post_init__(self) -> None:
        sides = (self.picture,) if isinstance(self.picture, int) else self.picture
        wrong = len(sides) not in (1, 2) or any(side < 16 or side % 16 for side in sides)
        _check("data.picture", self.picture, not wrong, "one side or [height, width] in multiples of 16")
        _check("data.tile", self.tile, self.tile >= 0 and self.tile % 16 == 0, "a multiple of 16, or 0 for the picture")
        _check("data.tile", self.tile, self.tile <= min(sides), f"at most the picture's smaller side, {min(sides)}")
        _check("data.cache", self.cache, self.cache >= 0, "0 or more pictures")
        _check("data.windows", self.windows, self.windows >= 1, "1 or more")


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
        _check("conditions none, text, dino, both", shares, allowed, "shares that sum to 1")
        _check("conditions.weak", self.weak, 0 <= self.weak <= 1, "a share from 0 to 1")
        _check("conditions.from_source", self.from_source, 0 <= self.from_source <= 1, "a share from 0 to 1")
        _check_range("conditions.start", self.start, 0.05, 1)
        guided = 1 <= self.dino_guidance < math.inf
        _check("conditions.dino_guidance", self.dino_guidance, guided, "a number of at least 1, usually 1 to 3")
        for case, without in (("dino", "none"), ("both", "text")):
            if self.dino_guidance > 1 and getattr(self, case) and not getattr(self, without):
                raise ValueError(
                    f"conditions.dino_guidance compares {case} with {without}, and conditions.{without} is 0: raise it"
                )
        noise = self.feature_noise
        _check("conditions.feature_noise", noise, 0 <= noise < math.inf, "a number of at least 0, usually 0 to 0.2")


@dataclass(frozen=True)
class DegradationSettings:
    """How the source of DINO's features is made worse than the picture; each is drawn from its range. scale: shrink factor.
    blur: standard deviation in px. noise: standard deviation of 0..1. jpeg: quality. weak_scale: factor of the weak case."""

    scale: Range = (1.0, 4.0)
    blur: Range = (0.0, 2.0)
    noise: Range = (0.0, 0.05)
    jpeg: Range = (50.0, 95.0)
    weak_scale: Range = (4.0, 12.0)

    def __post_init__(self) -> None:
        for name, low, high in (("scale", 1, 64), ("blur", 0, 64), ("noise", 0, 1), ("jpeg", 1, 100)):
            _check_range(f"degradation.{name}", getattr(self, name), low, high)
        _check_range("degradation.weak_scale", self.weak_scale, 1, 64)


@dataclass(frozen=True)
class OptimisationSettings:
    """batch: rows per process and micro-step. learning_rate: the peak after ``warmup`` steps, then a cosine down to a tenth.
    ema: decay of the averaged weights (0: none). clip: largest gradient norm (0: none). sigma: range of noise levels; match
    it to the denoise of upscaling. precision: of the computation around the float32 adapter."""

    steps: int = 10_000
    batch: int = 1
    accumulation: int = 1
    learning_rate: float = 1e-4
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    seed: int = 0
    sigma: Range = (0.0, 1.0)
    sigma_sampling: Literal["uniform", "logit_normal"] = "uniform"
    precision: Literal["no", "bf16", "fp16"] = "no"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("accumulation", 1), ("warmup", 0), ("seed", 0)):
            _check(f"optimisation.{name}", getattr(self, name), getattr(self, name) >= least, f"{least} or more")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            _check(f"optimisation.{name}", value, 0 <= value <= 1, "a number from 0 to 1")
        _check("optimisation.clip", self.clip, 0 <= self.clip < math.inf, "a number of at least 0")
        _check("optimisation.ema", self.ema, 0 <= self.ema < 1, "a decay from 0 to below 1, usually 0.99 to 0.9999")
        _check_range("optimisation.sigma", self.sigma, 0, 1)


@dataclass(frozen=True)
class OutputSettings:
    """folder: for checkpoints, logs and the adapter. keep: checkpoints that stay. The ``_every`` are steps, 0 for never.
    validation_pictures: held out of the training where the data has at least four times as many."""

    folder: str = ""
    log_every: int = 10
    save_every: int = 500
    keep: int = 2
    sample_every: int = 0
    validate_every: int = 0
    validation_pictures: int = 4
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name, least in (("log_every", 1), ("save_every", 1), ("keep", 1), ("sample_every", 0)):
            _check(f"output.{name}", getattr(self, name), getattr(self, name) >= least, f"{least} or more")
        _check("output.validate_every", self.validate_every, self.validate_every >= 0, "0 or more")
        _check("output.validation_pictures", self.validation_pictures, self.validation_pictures >= 2, "2 or more")


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
