"""The script that measures what DINO costs per step."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import flux_size


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the script with options; what it printed."""

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["flux_size.py", *options])
        flux_size.main()
        return capsys.readouterr().out

    return run


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_so_and_measures_nothing(run, tmp_path):
    assert "no CUDA device" in run("--json", str(tmp_path / "figures.json"))
    assert not (tmp_path / "figures.json").exists()


def test_the_demo_models_go_through_every_mechanism_and_a_training_step(run, tmp_path, monkeypatch):
    """On a quarter of the demo's tokens."""
    whole = flux_size.demo_setting
    monkeypatch.setattr(flux_size, "demo_setting", lambda device: replace(whole(device), side=16))
    assert whole(torch.device("cpu")).side ** 2 == 1024
    run("--demo", "--rounds", "1", "--json", str(tmp_path / "figures.json"))
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["about"]["image_tokens"] == 256
    assert set(found["figures"]) == {
        "no adapter",
        "cross_attention",
        "context",
        "vector",
        "all",
        "training step, cross_attention",
    }
    assert all(figure["seconds"] > 0 for figure in found["figures"].values())
