"""Where the tests of this folder run: on CUDA, or where DINOTILE_GPU_TESTS says, to rehearse them (``cpu``)."""

import os

import pytest
import torch

DEVICE = os.environ.get("DINOTILE_GPU_TESTS", "cuda")
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(),
        reason="there is no CUDA device: DINOTILE_GPU_TESTS=cpu rehearses these tests without one",
    ),
]
STEPS = 50 if DEVICE == "cuda" else 3


def peak() -> int:
    """Bytes that were allocated on the device at most; 0 on the CPU, where nobody counts."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
