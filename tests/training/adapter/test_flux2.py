"""The same task on a tiny FLUX.2."""

import shutil

import numpy as np
import pytest
import torch

from dinotile.dino.specs import SPECS
from dinotile.flux_patch.adapter_config import adapter_config
from dinotile.flux_patch.checkpoint import load_adapter, new_adapter, save_adapter
from dinotile.flux_patch.geometry import geometry_of
from dinotile.training.adapter.start import warm_start
from dinotile.training.adapter.step import velocities
from dinotile.training.adapter.task import FILE
from dinotile.training.core.monitor import read_log

from ...flux_patch.conftest import trained_like
from ...tiny import tiny_flux2
from ..tiny import largest_difference, run, settings, tiny_trainer, weights

FROM_NOISE = {"steps": 14, "batch": 3, "learning_rate": 1e-2, "sigma": (1.0, 1.0)}
WITH_DINO = {"none": 0, "text": 0, "dino": 1, "both": 0, "weak": 0}


def test_training_lowers_the_loss_and_moves_the_adapter_only(pictures):
    config = settings(pictures, data={"flip": False}, conditions=WITH_DINO, optimisation=FROM_NOISE)
    trainer = tiny_trainer(config, flux2=True)
    frozen = {name: tensor.clone() for name, tensor in trainer.task.host.transformer.state_dict().items()}
    losses = [trainer.step().loss for _ in range(FROM_NOISE["steps"])]
    assert sum(losses[-4:]) / 4 < 0.8 * losses[0]
    assert all(torch.equal(frozen[name], tensor) for name, tensor in trainer.task.host.transformer.state_dict().items())


def test_every_site_and_the_context_get_a_gradient(pictures):
    trainer = tiny_trainer(
        settings(pictures, conditions=WITH_DINO), mechanisms=("cross_attention", "context"), flux2=True
    )
    trainer.step()
    rows = trainer.task.rows([0, 1], step=1, total=2)
    module = trainer.task.host.adapter.module
    module.zero_grad()
    torch.stack(velocities(trainer.task.host, rows)).square().mean().backward()
    for name in ("sites.double_0.v.weight", "sites.double_0.k.weight", "sites.single_1.v.weight", "context.weight"):
        assert module.get_parameter(name).grad.abs().max() > 0, name


def test_the_log_tells_how_much_attention_goes_to_each_part(pictures):
    """Also to the text, which the host makes longer than the data has it."""
    trainer = tiny_trainer(
        settings(pictures, conditions=WITH_DINO), mechanisms=("cross_attention", "context"), flux2=True
    )
    found = trainer.step(details=True).details["attention"]
    parts = [found[name] for name in ("text", "context_cls", "context_patches", "image")]
    assert sum(parts) == pytest.approx(1, abs=1e-4) and min(parts) > 0
    assert found["text"] > found["image"]  # 512 tokens of it, and 4 of a tile
    assert found["site_cls"] + found["site_patches"] == pytest.approx(1, abs=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_adapter(pictures, tmp_path):
    def of(name):
        optimisation = {"steps": 4, "batch": 2, "learning_rate": 1e-3}
        return settings(pictures, optimisation=optimisation, output={"folder": str(tmp_path / name)})

    whole, parts = tiny_trainer(of("whole"), flux2=True), tiny_trainer(of("parts"), flux2=True)
    run(whole)
    asked = iter(range(1, 100))
    run(parts, should_stop=lambda: next(asked) == 2)
    assert len(read_log(tmp_path / "parts")) == 2
    resumed = tiny_trainer(of("parts"), flux2=True)
    path = run(resumed)
    assert largest_difference(weights(resumed), weights(whole)) < 1e-5
    saved = load_adapter(path)
    assert path.name == FILE and saved.trained and saved.config.geometry.family == "flux2"


def test_checkpointing_learns_the_same(pictures):
    config = settings(pictures, conditions=WITH_DINO, optimisation={"steps": 2, "batch": 2, "learning_rate": 1e-3})
    plain, checkpointed = (tiny_trainer(config, flux2=True, checkpointing=on) for on in (False, True))
    for trainer in (plain, checkpointed):
        trainer.step()
    assert largest_difference(weights(plain), weights(checkpointed)) < 1e-5


def test_what_fits_of_an_adapter_for_another_size_is_taken_and_the_rest_listed(tmp_path):
    """From 128 px of width to 256: what is as wide as DINO and as the adapter itself."""
    small, large = (adapter_of(tiny_flux2(heads=heads)) for heads in (1, 2))
    save_adapter(trained_like(small), tmp_path / "small.safetensors")
    before = {name: parameter.clone() for name, parameter in large.module.named_parameters()}
    report = warm_start(large.module, tmp_path / "small.safetensors")
    assert {name.split(".")[0] for name in report.new} == {"sites"}
    assert set(report.new) == {f"sites.{site}.{part}.weight" for site in ("double_0", "single_0") for part in "kv"}
    assert {"patches.conv.weight", "null_cls", "sites.single_0.k_norm.weight", "gate.out.weight"} <= set(report.loaded)
    assert "made for family flux2, width 128, 1 heads" in str(report) and "4 new (sites.double_0.k.weight" in str(
        report
    )
    for name, parameter in large.module.named_parameters():
        wanted = small.module.get_parameter(name) if name in report.loaded else before[name]
        assert torch.equal(parameter, wanted), name


def adapter_of(flux):
    config = adapter_config(SPECS["dinov2-demo"], geometry_of(flux), layers="3", width=16, grid=4)
    return new_adapter(config)


def test_captions_reach_the_model_and_another_models_are_refused(pictures, tmp_path):
    pictures = shutil.copytree(pictures, tmp_path / "pictures")
    for path in pictures.glob("*.png"):
        np.save(path.with_suffix(".flux2.npy"), np.full((3, 48), 2.0, np.float16))
    shares = {"none": 0, "text": 0, "dino": 0, "both": 1, "weak": 0}
    trainer = tiny_trainer(settings(pictures, conditions=shares), flux2=True)
    trainer.step()
    rows = trainer.task.rows([0, 1], step=1, total=2)
    assert all(row.text.context.shape == (1, 3, 48) and bool((row.text.context == 2).all()) for row in rows)
    assert all(row.text.pooled.shape == (1, 0) for row in rows)
    with pytest.raises(ValueError, match="brings text tokens 48 wide, the model takes 32: encode the captions"):
        tiny_trainer(settings(pictures, conditions=shares)).step()
