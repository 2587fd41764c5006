"""What a user can set, checked once, for every way to upscale."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

from ..dino.guidance.x0 import GuidanceSettings
from ..flux_patch.latents import Latents
from ..hosts.diffusers.sources import find_variant
from ..tiling.canvas import scaled_size
from ..tiling.color_match import MATCHES, ColorMatch, check_color_match
from ..tiling.noise import NOISES, Noise
from ..tiling.plan import FITS, Fit, TilePlan, canvas_size
from .limits import LIMITS, check_tiles

MASKS = ("dino_mask", "denoise_mask")  # options that are pictures
DINO_ALONE = {  # settings that need a DINO model and no adapter, and what for; 0 is off
    "guide": "leads to what DINO sees",
    "adaptive": "asks DINO where there is texture",
    "retry": "does again what DINO does not recognise",
}
Mode = Literal["auto", "joint", "sequential"]
MODES: tuple[Mode, ...] = get_args(Mode)
STRENGTH = "strength"  # what the command line and diffusers also call denoise

KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number: round it"),
    "float": (Real, "a number: write it in digits"),
    "bool": (bool, "True or False: write one of them"),
    "Fit": (str, f"{' or '.join(FITS)}: write one of them"),
    "Mode": (str, f"{' or '.join(MODES)}: write one of them"),
    "Noise": (str, f"{' or '.join(NOISES)}: write one of them"),
    "ColorMatch": (str, f"one of {', '.join(MATCHES)}: off is usual"),
}


@dataclass(frozen=True)
class UpscaleSettings:
    """scale: output side over input side. denoise: how much may change, 0 to 1. steps: model evaluations per tile, at any
    denoise. tile, overlap: in px. guidance: of dev models. cfg, dino_guidance: classifier-free guidance by text and by DINO, 1 is
    off. fidelity: of ``back_project``. vae_detail: share of what the VAE alone loses of the enlarged picture that is put back.
    dynamic_shift: of the noise levels, by the size of a tile. tile_batch: tiles per model
    call, 0 chooses by the device. tile_fit: of ``plan_tiles``. moving: whether tiles lie elsewhere at each step.
    anchor, guide: strengths of the anchor, 1 is all of the source, and of DINO on estimates; guide_from, guide_to: shares of the
    first noise level between which they act; guide_every: at every how many steps (``GuidanceSettings``).
    redux_strength, redux_grid: of ``ReduxTokens``. controlnet_strength: of a ``Hint``.
    adaptive: how much less is redrawn where ``detail_mask`` sees no texture, 0 to 1.
    retry: the least agreement of a tile with its source, as a share of what plain enlargement has; tiles below run again.
    mode: "joint" runs all tiles in every step, "sequential" each to its end, in memory that does not grow with the picture's
    height; "auto" is joint where that is expected to fit.
    color_match: of ``match_color``, to the enlarged picture, before fidelity.
    noise: in mode joint, "canvas" draws it for the whole canvas at once, "place" by ``placed_noise``, as mode sequential always
    does.
    """

    scale: float = 2.0
    denoise: float = 0.3
    steps: int = 20
    tile: int = 1024
    overlap: int = 128
    guidance: float = 3.5
    cfg: float = 1.0
    seed: int = 0
    dino_strength: float = 1.0
    dino_guidance: float = 1.0
    fidelity: float = 0.0
    dynamic_shift: bool = False
    tile_batch: int = 0
    tile_fit: Fit = "balanced"
    moving: bool = False
    anchor: float = 0.0
    guide: float = 0.0
    guide_from: float = 1.0
    guide_to: float = 0.05
    guide_every: int = 1
    adaptive: float = 0.0
    redux_strength: float = 1.0
    redux_grid: int = 14
    controlnet_strength: float = 0.6
    retry: float = 0.0
    vae_detail: float = 0.0
    mode: Mode = "auto"
    color_match: ColorMatch = "off"
    noise: Noise = "canvas"

    def __post_init__(self) -> None:
        for field in fields(self):
            value, (kind, needed) = getattr(self, field.name), KINDS[str(field.type)]
            if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
                raise ValueError(f"{field.name.replace('_', ' ')} {value!r} must be {needed}")
            if kind is Integral:
                object.__setattr__(self, field.name, int(value))  # torch takes no NumPy number for a seed
        for name, limit in LIMITS.items():
            limit.check(name, getattr(self, name))
        for name, kind, known in (("mode", "Mode", MODES), ("noise", "Noise", NOISES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} must be {KINDS[kind][1]}")
        _ = self.on_estimates  # refuses its own
        check_color_match(self.color_match)
        check_tiles(self.tile, self.overlap, self.tile_fit)

    def plan(self, height: int, width: int, *, latents: Latents) -> TilePlan:
        """The tiles of a picture of that height and width, where they do not move."""
        canvas = canvas_size(*scaled_size(height, width, scale=self.scale), grid=latents.token)
        return latents.plan_tiles(*canvas, tile=self.tile, overlap=self.overlap, fit=self.tile_fit)

    @property
    def on_estimates(self) -> GuidanceSettings:
        return GuidanceSettings(self.anchor, self.guide, self.guide_to, self.guide_from, self.guide_every)

    @property
    def dino_uses(self) -> tuple[str, ...]:
        """Which settings use a DINO model without an adapter."""
        return tuple(name for name in DINO_ALONE if getattr(self, name))

    @property
    def sequential(self) -> UpscaleSettings:
        """As they are in mode sequential, whose noise is always by place."""
        return replace(self, mode="sequential", noise="place")

    @property
    def gentler(self) -> UpscaleSettings:
        """Those of a second try: half of the denoise in half of the steps, which are the end of the same schedule."""
        return replace(self, denoise=self.denoise / 2, steps=-(-self.steps // 2))


def settings_for(variant: str, **given: Any) -> UpscaleSettings:
    """``UpscaleSettings`` with the variant's own steps, tile, overlap, fidelity, VAE detail, schedule and guidances where None is
    given."""
    usual = find_variant(variant)
    strength = given.pop(STRENGTH, None)
    if strength is not None and given.get("denoise") is not None:
        raise ValueError(f"denoise {given['denoise']} and strength {strength} are one setting: give one of them")
    given["denoise"] = given.get("denoise") if strength is None else strength
    defaults = {field.name: getattr(usual, field.name, field.default) for field in fields(UpscaleSettings)}
    return UpscaleSettings(**{**defaults, **{name: value for name, value in given.items() if value is not None}})
