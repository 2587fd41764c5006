"""What a user can set, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from ..tiling.plan import plan_tiles

TOKEN = 16  # pixels per FLUX token


@dataclass(frozen=True)
class Variant:
    """A FLUX.1 model as the command line knows it: where its models come from and its defaults."""

    name: str
    repository: str  # on the Hugging Face hub; empty: the models of this package's demo folder
    steps: int
    tile: int
    overlap: int
    fidelity: float
    dynamic_shift: bool
    text_tokens: int


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in [
        Variant("demo", "", 6, 256, 32, 1.0, False, 0),
        Variant("schnell", "black-forest-labs/FLUX.1-schnell", 4, 1024, 128, 0.0, False, 256),
        Variant("dev", "black-forest-labs/FLUX.1-dev", 20, 1024, 128, 0.0, True, 512),
    ]
}


def find_variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"variant {name!r} must be one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


@dataclass(frozen=True)
class UpscaleSettings:
    """What may differ from picture to picture with the same models.

    scale: output size over input size, usually 2 to 4. strength: share of the noise schedule that is run, 0 (only
    through the VAE) to 1 (from pure noise), usually 0.2 to 0.5. steps: model evaluations per tile. tile, overlap: px.
    guidance: FLUX.1 dev's own, usually 2 to 4; other models have none. dino_strength: 0 (off) to 2; 1 is as trained.
    dino_guidance: classifier-free guidance by DINO, 1 is off; above, usually 1.5 to 3, every step takes twice the time. It
    multiplies the guidance that the adapter has learned.
    fidelity: 0 (FLUX alone) to 1 (the result, shrunk, equals the source). dynamic_shift: FLUX.1 dev's schedule. tile_batch:
    tiles per model call, no influence on the result; 0 chooses.
    """

    scale: float = 2.0
    strength: float = 0.3
    steps: int = 4
    tile: int = 1024
    overlap: int = 128
    guidance: float = 3.5
    seed: int = 0
    dino_strength: float = 1.0
    dino_guidance: float = 1.0
    fidelity: float = 0.0
    dynamic_shift: bool = False
    tile_batch: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "tile", "overlap", "seed", "tile_batch"):
            if not isinstance(getattr(self, name), Integral):
                raise ValueError(f"{name.replace('_', ' ')} {getattr(self, name)!r} must be a whole number: round it")
        for name, value, low, high, use in (
            ("scale", self.scale, 1, 16, "usually 2 to 4"),
            ("strength", self.strength, 0, 1, "usually 0.2 to 0.5"),
            ("steps", self.steps, 1, 1000, "usually 4 for schnell and 20 for dev"),
            ("guidance", self.guidance, 0, 100, "usually 2 to 4"),
            ("seed", self.seed, 0, 2**63 - 1, "any whole number in this range"),
            ("dino strength", self.dino_strength, 0, 2, "0 is off, 1 is as trained"),
            ("dino guidance", self.dino_guidance, 1, 30, "1 is off, usually 1.5 to 3"),
            ("fidelity", self.fidelity, 0, 1, "0 is FLUX alone, 1 keeps all that the source resolves"),
            ("tile batch", self.tile_batch, 0, 1024, "0 chooses by the device"),
        ):
            if not low <= value <= high:  # also refuses NaN
                raise ValueError(f"{name} {value} must be from {low} to {high}: {use}")
        plan_tiles(2 * self.tile, 2 * self.tile, tile=self.tile, overlap=self.overlap, grid=TOKEN)  # refuses bad pairs

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Exact height and width of the result."""
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))


def settings_for(variant: str, **given: Any) -> UpscaleSettings:
    """``UpscaleSettings`` with the variant's own steps, tile, overlap and schedule where None is given."""
    found = find_variant(variant)
    defaults = {"steps": found.steps, "tile": found.tile, "overlap": found.overlap, "fidelity": found.fidelity}
    chosen = {name: defaults.get(name) if value is None else value for name, value in given.items()}
    return UpscaleSettings(**{**defaults, **chosen}, dynamic_shift=found.dynamic_shift)
