"""An adapter that learns with a FlatDINO's latents as tokens that all tiles share."""

import pytest
import torch

from dinotile.dino.compress.checkpoint import LoadedFlat, save_flat
from dinotile.dino.compress.config import FlatConfig
from dinotile.dino.compress.model import new_flat
from dinotile.dino.specs import SPECS
from dinotile.flux_patch.adapter_config import adapter_config
from dinotile.flux_patch.checkpoint import load_adapter, new_adapter, save_adapter
from dinotile.flux_patch.geometry import FluxGeometry
from dinotile.training.adapter.dry_run import dry_run
from dinotile.training.adapter.run import train
from dinotile.training.adapter.start import warm_start
from dinotile.training.core.monitor import read_log

from ..tiny import settings, write_models

FLAT = FlatConfig(
    "dinov2-demo", SPECS["dinov2-demo"].width, "3", (4, 4), tokens=5, features=3, encoder="p", decoder="p", half=True
)
STEPS = 3


@pytest.fixture
def told(pictures, tmp_path):
    """A configuration of a run with shared tokens; the second FlatDINO differs in its weights only."""
    models = write_models(tmp_path)
    for seed in (0, 1):
        save_flat(new_flat(FLAT, seed=seed), tmp_path / f"flat{seed}.safetensors")

    def config(flat, *, steps=STEPS, **model):
        return settings(
            pictures,
            model={**models, **model},
            adapter={"shared_tokens": str(flat)},
            conditions={"none": 0, "text": 0, "dino": 1, "both": 0},
            optimisation={"steps": steps, "batch": 2},
            output={"folder": str(tmp_path / "run"), "log_every": 1, "save_every": 1},
        )

    return config


def test_it_learns_to_use_them_and_leaves_the_flatdino_as_it_was(told, tmp_path):
    config = told(tmp_path / "flat0.safetensors")
    adapter = load_adapter(train(config))
    assert adapter.trained and adapter.config.flat == FLAT
    theirs = new_flat(FLAT, seed=0).state_dict()
    kept = adapter.module.shared.flat.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in kept.items())
    assert adapter.module.shared.out.bias.abs().max() > 0  # 0 in a fresh one
    assert {"site_cls", "site_patches", "site_shared"} <= read_log(tmp_path / "run")[-1]["attention"].keys()
    assert dry_run(told(tmp_path / "flat0.safetensors", steps=5)).adapter.flat == FLAT


def test_a_run_does_not_go_on_with_other_latents(told, tmp_path):
    train(told(tmp_path / "flat0.safetensors"))
    with pytest.raises(ValueError, match="the checkpoint differs in flat"):
        train(told(tmp_path / "flat1.safetensors", steps=STEPS + 1))
    assert train(told(tmp_path / "flat0.safetensors", steps=STEPS + 1)).exists()


def test_a_flatdino_of_another_layer_or_no_file_at_all_is_refused_before_training(told, tmp_path):
    with pytest.raises(ValueError, match="the adapter's features are dinov2-demo layers 2.*this FlatDINO"):
        train(told(tmp_path / "flat0.safetensors", layers="2"))
    with pytest.raises(ValueError, match="no-such"):
        train(told(tmp_path / "no-such.safetensors"))
    assert not (tmp_path / "run").exists()


def test_a_warm_start_tells_that_what_it_takes_was_learned_of_other_latents(tmp_path):
    geometry = FluxGeometry(256, 2, 1, 1, 32, 24)
    config = adapter_config(SPECS["dinov2-demo"], geometry, layers="3", width=16, grid=4, flat=FLAT)
    first, other = (LoadedFlat(new_flat(FLAT, seed=seed).eval(), str(seed)) for seed in (0, 1))
    save_adapter(new_adapter(config, flat=first), tmp_path / "a.safetensors", trained=True)
    for flat, said in ((first, ()), (other, ("another FlatDINO",))):
        report = warm_start(new_adapter(config, seed=1, flat=flat).module, tmp_path / "a.safetensors")
        assert report.other == said and not report.new and not report.unused
