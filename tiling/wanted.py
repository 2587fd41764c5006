"""The size that a person asks for, where it is not a factor."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import sqrt


@dataclass(frozen=True)
class WantedSize:
    """width, height: px of the result; of both the one that is reached first, as the proportions stay. longest: px of its longer
    side. megapixels: 10^6 px of it. None: not asked for."""

    width: int | None = None
    height: int | None = None
    longest: int | None = None
    megapixels: float | None = None

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        for name in given:
            if not 0 < getattr(self, name) < 10**9:  # also refuses NaN
                raise ValueError(
                    f"{name} {getattr(self, name)} must be above 0, in px or 10^6 px: give the size of the result"
                )
        if len(given) > 1 and set(given) != {"width", "height"}:
            raise ValueError(f"{' and '.join(given)} are different sizes: give one of them, or width and height")

    @property
    def given(self) -> bool:
        return self != WantedSize()

    def scale(self, height: int, width: int) -> float:
        """The factor of both sides for a picture of that height and width."""
        if self.megapixels is not None:
            return sqrt(self.megapixels * 1e6 / (height * width))
        if self.longest is not None:
            return self.longest / max(height, width)
        return min(side / own for side, own in ((self.height, height), (self.width, width)) if side is not None)
