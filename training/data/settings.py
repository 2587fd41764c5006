"""What the data of a training run is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.config import Range, check, check_range


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
        check("data.picture", self.picture, not wrong, "one side or [height, width] in multiples of 16")
        check("data.tile", self.tile, self.tile >= 0 and self.tile % 16 == 0, "a multiple of 16, or 0 for the picture")
        check("data.tile", self.tile, self.tile <= min(sides), f"at most the picture's smaller side, {min(sides)}")
        check("data.cache", self.cache, self.cache >= 0, "0 or more pictures")
        check("data.windows", self.windows, self.windows >= 1, "1 or more")


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
            check_range(f"degradation.{name}", getattr(self, name), low, high)
        check_range("degradation.weak_scale", self.weak_scale, 1, 64)
