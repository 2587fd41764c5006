"""The script that measures a VAE whole and in strips."""

import json
import sys

import pytest

from benchmarks import vae_strips


@pytest.fixture
def figures(monkeypatch, tmp_path):
    def run(*options):
        path = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", ["vae_strips.py", "--rounds", "1", "--json", str(path), *options])
        vae_strips.main()
        return json.loads(path.read_text())["figures"]

    return run


@pytest.mark.parametrize("kind", [("--width", "32"), ("--tiny",)])
def test_both_ways_are_measured_and_compared(figures, kind):
    found = figures("--sizes", "64", "--device", "cpu", *kind)
    assert set(found) == {"encode 64", "decode 64"}
    for half in found.values():
        assert half["largest_difference"] < 1e-4 < half["spread"]
        assert min(half[way]["seconds"] for way in ("whole", "strips")) > 0


def test_the_cpu_is_measured_beside_a_gpu_too(figures, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda *_: 0)
    for name in ("reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_: None)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda *_: 0)
    (found,) = figures("--sizes", "32", "--device", "cpu", "--tiny", "--halves", "decode").values()
    assert found["whole"]["peak_bytes"] > 0 < found["strips"]["peak_bytes"]


def test_the_meta_device_counts_what_fluxs_vae_costs(figures):
    """159e12 operations of convolutions in 4096 x 4096 px; the attention's, 141e12 there, go with the square of the pixels."""
    (found,) = figures("--sizes", "256", "--device", "meta", "--halves", "decode").values()
    assert found["whole"]["flops"] == pytest.approx(159e12 / 256 + 141e12 / 256**2, rel=0.01)
    assert found["whole"]["flops"] <= found["strips"]["flops"] < 1.5 * found["whole"]["flops"]
    assert found["strips"]["kernels"] > found["whole"]["kernels"] > 100
