"""bfloat16 where the CPU has units for it (AMX, AVX512-BF16): elsewhere it is emulated, and several times slower than float32."""

from __future__ import annotations

import time
from functools import cache

import torch

SIDE, TIMES = 512, 3


@cache
def half() -> bool:
    """Whether this CPU multiplies matrices faster in bfloat16: both are timed once, in some milliseconds."""
    return _seconds(torch.bfloat16) < _seconds(torch.float32)


def autocast() -> torch.autocast:
    """``torch.autocast`` to bfloat16 where that is faster."""
    return torch.autocast("cpu", torch.bfloat16, enabled=half())


def _seconds(dtype: torch.dtype) -> float:
    """Of the fastest of some products."""
    matrix = torch.ones(SIDE, SIDE, dtype=dtype)
    taken = []
    for _ in range(TIMES):
        start = time.process_time()
        matrix @ matrix
        taken.append(time.process_time() - start)
    return min(taken)
