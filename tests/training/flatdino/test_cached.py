"""``dinotile features --compress``, and a training that reads what it kept, with the demo's models."""

import json
import shutil

import numpy as np
import pytest

from dinotile import demo
from dinotile.dino.compress.checkpoint import load_flat

from ..tiny import picture_folder


@pytest.fixture
def folder(tmp_path):
    return picture_folder(tmp_path / "pictures", count=6)


def config(folder, run, **data):
    told = {"path": str(folder), "picture": 64, "tile": 32, "features": "dinov2", **data}
    every = {"log_every": 1, "tensorboard": False}
    return json.dumps(
        {
            "model": {"device": "cpu"},
            "data": told,
            "optimisation": {"steps": 1, "batch": 1},
            "output": {"folder": str(run), **every},
        }
    )


def test_an_adapter_learns_from_what_features_kept_and_is_told_where_it_cannot(folder, tmp_path, dinotile):
    make = ("features", folder, "--dino", demo.DINO, "--compress", demo.FLAT, "--device", "cpu")
    code, _, err = dinotile(*make, "--layers", "last")
    assert code == 2 and "layers acts without compress only" in err and not list(folder.glob("*.npy"))
    code, out, err = dinotile(*make)
    assert (code, out.strip()) == (0, "dinov2: 6 computed, 0 kept, 0 skipped"), err
    assert np.load(folder / "00.dinov2_flat.npy").nbytes == 512 and not list(folder.glob("*_patches.npy"))
    code, out, _ = dinotile("features", folder, "--check")
    assert "6 features are compressed: name the FlatDINO in data.flat" in out
    yaml = tmp_path / "config.yaml"
    yaml.write_text(config(folder, tmp_path / "without"))
    code, _, err = dinotile("train", yaml)
    fingerprint = load_flat(demo.FLAT).fingerprint
    assert code == 2 and f"FlatDINO {fingerprint} compressed, data.flat is empty" in err
    yaml.write_text(config(folder, tmp_path / "run", flat=str(demo.FLAT)))
    code, _, err = dinotile("train", yaml)
    assert code == 0 and (tmp_path / "run" / "adapter.safetensors").is_file(), err


def test_a_flatdino_is_not_trained_on_what_another_compressed(folder, tmp_path, dinotile):
    dinotile("features", folder, "--dino", demo.DINO, "--compress", demo.FLAT, "--device", "cpu")
    code, _, err = dinotile(
        "flatdino", "train", "fast-4-pp-6-hl", folder, "--features", "dinov2", "-o", tmp_path / "run"
    )
    assert code == 2 and "features that a FlatDINO compressed, needed are whole ones" in err
    shutil.rmtree(folder)
