"""The trainer on CUDA, with as many DINO tokens (257) and as wide heads as FLUX.1's adapters have."""

import math

import pytest
import torch

from dinotile.training.core.monitor import read_log

from ..training.conftest import pictures as pictures
from ..training.tiny import largest_difference, run, settings, tiny_trainer, weights
from .device import DEVICE, STEPS, on_gpu, peak

pytestmark = on_gpu
ALL = ("cross_attention", "context", "vector")
KINDS = [("float32", "no"), ("float32", "bf16"), ("bfloat16", "bf16"), ("float32", "fp16"), ("float16", "fp16")]


def trainer_of(pictures, *, dtype="float32", precision="no", folder="", steps=STEPS, **host):
    config = settings(
        pictures,
        model={"dtype": dtype, "device": DEVICE},
        adapter={"grid": 16},
        optimisation={"steps": steps, "learning_rate": 1e-3, "precision": precision},
        output={"folder": str(folder)},
    )
    return tiny_trainer(config, dtype=getattr(torch, dtype), device=DEVICE, grid=16, **host)


@pytest.fixture(autouse=True)
def exact():
    """float32 as it is named."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(("dtype", "precision"), KINDS)
def test_every_precision_trains_with_the_gradient_of_float32(pictures, dtype, precision):
    exact, trained = (
        trainer_of(pictures, mechanisms=ALL),
        trainer_of(pictures, dtype=dtype, precision=precision, mechanisms=ALL),
    )
    reports = exact.step(details=True), trained.step(details=True)
    assert reports[1].part_norms == pytest.approx(reports[0].part_norms, rel=0.1, abs=1e-4)
    start = weights(trained)
    losses = [trained.step().loss for _ in range(STEPS)]
    assert all(map(math.isfinite, losses)) and largest_difference(weights(trained), start) > 1e-4
    assert all(bool(tensor.isfinite().all()) for tensor in weights(trained).values())


def test_a_flux_in_8_bits_trains(pictures):
    trainer = trainer_of(pictures, dtype="bfloat16", precision="bf16", checkpointing=True, mechanisms=ALL)
    flux = trainer.task.host.transformer
    flux.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    start = weights(trainer)
    assert all(math.isfinite(trainer.step().loss) for _ in range(STEPS))
    assert largest_difference(weights(trainer), start) > 1e-4
    assert torch.float8_e4m3fn in {parameter.dtype for parameter in flux.parameters()}


def test_a_stopped_training_is_resumed_on_the_device(pictures, tmp_path):
    whole = trainer_of(pictures, folder=tmp_path / "whole", steps=4)
    run(whole)
    asked = iter(range(1, 100))
    run(trainer_of(pictures, folder=tmp_path / "parts", steps=4), should_stop=lambda: next(asked) == 2)
    parts = trainer_of(pictures, folder=tmp_path / "parts", steps=4)
    run(parts)
    assert parts.done == 4 and len(read_log(tmp_path / "parts")) == 4
    assert largest_difference(weights(parts), weights(whole)) < 1e-4


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_checkpointing_changes_no_gradient_and_takes_no_more_memory(pictures, precision):
    norms, peaks = [], []
    for checkpointing in (False, True):
        trainer = trainer_of(pictures, precision=precision, checkpointing=checkpointing, mechanisms=ALL)
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        norms.append(trainer.step(details=True).part_norms)
        peaks.append(peak())
    assert norms[1] == pytest.approx(norms[0], rel=1e-2, abs=1e-5)
    assert peaks[1] <= 1.05 * peaks[0]
