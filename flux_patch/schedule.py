"""How strongly DINO acts: over the sampling schedule, over the blocks, and over the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PercentToSigma = Callable[[float], float]
Profile = Literal["flat", "early", "late"]
PROFILES: tuple[Profile, ...] = ("flat", "early", "late")


@dataclass(frozen=True, eq=False)
class Strength:
    """User settings of one DINO conditioning.

    strength: 0 (off) to 2; 1 is as trained. start_percent, end_percent: part of the schedule, 0 (noise) to 1 (picture).
    profile: weight over the depth of FLUX; "early" falls from 1 to 0 with depth, "late" rises, "flat" is 1.
    mask: [h, w] or None, 0 to 1, over the whole canvas: where DINO acts.
    """

    strength: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0
    profile: Profile = "flat"
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 2.0:
            raise ValueError(f"strength {self.strength} must be between 0 and 2: 0 is off, 1 is the trained strength")
        if not 0.0 <= self.start_percent <= self.end_percent <= 1.0:
            raise ValueError(
                f"start_percent {self.start_percent} and end_percent {self.end_percent} must satisfy "
                f"0 <= start <= end <= 1: lower the start or raise the end"
            )
        if self.profile not in PROFILES:
            raise ValueError(f"profile {self.profile!r} must be one of {', '.join(PROFILES)}")

    @property
    def always(self) -> bool:
        """The same at every noise level."""
        return self.start_percent == 0 and self.end_percent == 1

    def at(self, sigma: float, percent_to_sigma: PercentToSigma) -> float:
        """The strength at a noise level: itself inside the window, 0 outside."""
        # Rounding may lift sigma above 1, so a start at 0 is not asked for its sigma.
        begun = self.start_percent == 0 or sigma <= percent_to_sigma(self.start_percent)
        ended = self.end_percent < 1 and sigma < percent_to_sigma(self.end_percent)
        return self.strength if begun and not ended else 0.0

    def mask_on(self, box: tuple[float, float, float, float], *, height: int, width: int) -> Tensor:
        """The mask averaged to ``height`` x ``width`` cells of a region given in fractions (top, left, height, width), which
        may lie beyond the border, in a canvas' padding."""
        assert self.mask is not None
        top, left, box_height, box_width = box
        rows, columns = self.mask.shape
        first_row, first_column = min(int(top * rows), rows - 1), min(int(left * columns), columns - 1)
        last_row = max(first_row + 1, round((top + box_height) * rows))
        last_column = max(first_column + 1, round((left + box_width) * columns))
        region = self.mask[first_row:last_row, first_column:last_column].float()
        return F.interpolate(region[None, None], size=(height, width), mode="area")[0, 0]


def depth_weights(profile: Profile, depths: list[float]) -> Tensor:
    """Weights [sites] for sites at the given relative depths in 0..1."""
    depth = torch.tensor(depths)
    return {"flat": torch.ones_like(depth), "early": 1 - depth, "late": depth}[profile]
