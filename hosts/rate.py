"""How fast a device multiplies, which is what a forecast of seconds begins with."""

from __future__ import annotations

import torch
from torch.utils.benchmark import Timer

REACHED = 0.5  # of a matrix product's rate by whole models: 300 of about 650 TFLOP/s on an H100


def matrix_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.2) -> float:
    """Floating point operations per second of a product of two square matrices, measured for about that long."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    timer = Timer("left @ right", globals={"left": left, "right": right}, num_threads=torch.get_num_threads())
    return 2 * side**3 / timer.blocked_autorange(min_run_time=seconds).median
