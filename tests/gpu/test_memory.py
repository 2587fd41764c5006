"""Less memory on CUDA, and the same picture; skipped where there is none."""

from importlib.util import find_spec

import pytest
import torch

from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
PIXELS = torch.rand(1, 3, 90, 130, generator=torch.Generator().manual_seed(0))
SETTINGS = settings_for("demo", tile=128, seed=2, tile_batch=1)


def run(**options):
    upscaler = load_upscaler("demo", device="cuda", **options)
    return upscaler, *upscaler.upscale(PIXELS, SETTINGS)


def test_offloading_changes_no_bit_and_leaves_nothing_on_the_gpu():
    _, wanted, report = run()
    peaks = [report["peak_memory"]["device"]]
    for offload, place in (("model", "cpu"), ("sequential", "meta")):
        torch.cuda.empty_cache()
        upscaler, found, report = run(offload=offload)
        assert torch.equal(found, wanted)
        assert {p.device.type for p in upscaler.host.transformer.parameters()} == {place}
        assert {p.device.type for p in upscaler.dino.model.parameters()} == {"cpu"}
        peaks.append(report["peak_memory"]["device"])
    assert peaks[0] > peaks[1] > peaks[2]


def test_the_batch_of_tiles_is_chosen_with_flux_on_the_gpu():
    upscaler = load_upscaler("demo", device="cuda", offload="model")
    seen = []
    upscaler.host.transformer.register_forward_pre_hook(
        lambda module, args, given: seen.append(len(given["hidden_states"])), with_kwargs=True
    )
    _, report = upscaler.upscale(PIXELS, settings_for("demo", tile=128))
    assert seen[0] == min(report["tiles"]["batch"], report["tiles"]["count"])


def test_attention_slicing_changes_nothing():
    _, wanted, _ = run(dtype="float32")
    assert (run(dtype="float32", attention_slicing=True)[1] - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
@pytest.mark.parametrize("weights", ["fp8", "nf4"])
def test_fewer_bits_take_less_and_stay_close(weights, offload):
    if weights == "nf4" and find_spec("bitsandbytes") is None:
        pytest.skip("weights nf4 needs bitsandbytes: pip install bitsandbytes to run this")
    _, wanted, full = run(dtype="bfloat16")
    _, found, less = run(dtype="bfloat16", weights=weights, offload=offload)
    assert found.isfinite().all() and (found - wanted).abs().mean() < 0.05
    assert less["model_memory"]["flux"] < full["model_memory"]["flux"] * {"fp8": 0.75, "nf4": 0.4}[weights]
