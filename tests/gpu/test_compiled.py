"""torch.compile on CUDA, with DINO and without; skipped where there is none."""

import pytest
import torch

from ..hosts.diffusers.test_compiled import fresh as fresh
from ..hosts.diffusers.test_compiled import host, velocity

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@torch.no_grad()
def test_compiled_blocks_are_the_eager_ones():
    eager, traced = host(device="cuda"), host(device="cuda", compile=True)
    for strength in (0.0, 1.0, 0.5, 0.0):
        wanted = velocity(eager, strength)
        assert (velocity(traced, strength) - wanted).abs().max() < 1e-3 * wanted.abs().max()
