"""The standalone path on CUDA; skipped where there is none."""

import torch

from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for

from .device import DEVICE, on_gpu

pytestmark = on_gpu
PIXELS = torch.rand(1, 3, 90, 130, generator=torch.Generator().manual_seed(0))


def run(device, dtype):
    upscaler = load_upscaler("demo", device=device, dtype=dtype)
    return upscaler.upscale(PIXELS, settings_for("demo", tile=128, seed=2))


def test_cuda_equals_the_cpu_in_float32():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cpu, _ = run("cpu", "float32")
    cuda, report = run(DEVICE, "float32")
    assert (cpu - cuda.cpu()).abs().max() < 1e-3
    assert DEVICE == "cpu" or report["peak_memory"]["device"] > 0


def test_bfloat16_stays_close():
    exact, _ = run(DEVICE, "float32")
    rough, _ = run(DEVICE, "bfloat16")
    assert rough.isfinite().all() and (exact - rough).abs().mean() < 0.02
