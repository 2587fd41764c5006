"""The learning rate over a run."""

from __future__ import annotations

import math


def rate_at(share: float, *, step: int, warmup: int, least: float = 0.1) -> float:
    """The learning rate as a part of its peak: a linear warm-up times a cosine from 1 to ``least``.

    share: of the run, 0 to 1, that is done before the step; step: its number, counted from 0.
    """
    warm = min(1.0, (step + 1) / max(1, warmup))
    return warm * ((1 + least) / 2 + (1 - least) / 2 * math.cos(math.pi * min(1.0, share)))
