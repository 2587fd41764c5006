"""The script that measures what DINO costs per step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("skimage")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "flux_size.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_so_and_measures_nothing(tmp_path):
    done = run("--json", str(tmp_path / "figures.json"))
    assert "no CUDA device" in done.stdout and not (tmp_path / "figures.json").exists()


def test_the_demo_models_go_through_every_mechanism_and_a_training_step(tmp_path):
    run("--demo", "--rounds", "1", "--json", str(tmp_path / "figures.json"))
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["about"]["image_tokens"] == 1024
    assert set(found["figures"]) == {
        "no adapter",
        "cross_attention",
        "context",
        "vector",
        "all",
        "training step, cross_attention",
    }
    assert all(figure["seconds"] > 0 for figure in found["figures"].values())


def run(*options):
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done
