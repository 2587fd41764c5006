from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from dinotile.files.weights import read_weights
from dinotile.flux_patch.checkpoint import save_adapter
from dinotile.training.adapter.start import warm_start

from ..tiny import run, settings, tiny_host, tiny_trainer, weights


@pytest.fixture
def trained(pictures, tmp_path):
    """An adapter file with cross-attention only, after two steps."""
    config = settings(pictures, optimisation={"steps": 2}, output={"folder": str(tmp_path / "run")})
    trainer = tiny_trainer(config)
    return run(trainer), trainer.average.weights


@pytest.mark.parametrize("place", ["file", "run", "checkpoint"])
def test_what_matches_is_loaded_and_what_is_new_is_listed(trained, place):
    path, average = trained
    adapter = tiny_host(mechanisms=("cross_attention", "vector")).adapter.module
    path = {"file": path, "run": path.parent, "checkpoint": path.parent / "step-000002"}[place]
    report = warm_start(adapter, path)
    assert set(report.loaded) == set(average)
    assert set(report.new) == {"vector.weight", "vector.bias", "vector_norm.weight", "vector_norm.bias"}
    assert report.unused == () and report.other == ()
    for name in report.loaded:
        assert torch.equal(adapter.get_parameter(name), average[name])
    assert "4 new (vector_norm.weight" in str(report)


def test_parameters_that_only_the_file_has_are_listed(trained):
    report = warm_start(tiny_host(mechanisms=("vector",)).adapter.module, trained[0])
    assert "gate.hidden.weight" in report.unused and "vector.weight" in report.new


def test_an_adapter_for_other_layers_is_told(trained):
    adapter = tiny_host().adapter.module
    adapter.config = replace(adapter.config, layers="2")
    report = warm_start(adapter, trained[0])
    assert report.other == ("layers 3, not 2",) and str(report).endswith("made for layers 3, not 2")
    adapter.config = replace(adapter.config, layers="3", crops=2)
    assert warm_start(adapter, trained[0]).other == ("crops 1, not 2",)


def test_another_shape_is_refused_by_name_and_changes_nothing(trained):
    adapter = tiny_host(width=8).adapter.module
    before = {name: parameter.clone() for name, parameter in adapter.named_parameters()}
    with pytest.raises(ValueError, match=r"null_patch \[16\], this adapter has \[8\].*more differ .*patches.conv"):
        warm_start(adapter, trained[0])
    assert all(torch.equal(before[name], parameter) for name, parameter in adapter.named_parameters())


def test_weights_that_are_no_numbers_are_refused_by_name_and_change_nothing(trained, tmp_path):
    content, metadata = read_weights(trained[0])
    content["null_patch"][0] = float("nan")
    save_file(content, tmp_path / "nan.safetensors", metadata)
    adapter = tiny_host().adapter.module
    before = {name: parameter.clone() for name, parameter in adapter.named_parameters()}
    with pytest.raises(ValueError, match=r"nan.safetensors has weights that are NaN or infinite \(null_patch\)"):
        warm_start(adapter, tmp_path / "nan.safetensors")
    assert all(torch.equal(before[name], parameter) for name, parameter in adapter.named_parameters())


def test_a_file_without_a_matching_name_is_refused(tmp_path):
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors holds other, no parameter of this adapter"):
        warm_start(tiny_host().adapter.module, tmp_path / "other.safetensors")


def test_training_goes_on_from_a_warm_start(pictures, trained):
    host = tiny_host()
    warm_start(host.adapter.module, trained[0])
    save_adapter(host.adapter.module, trained[0].parent / "again.safetensors", trained=True)
    trainer = tiny_trainer(settings(pictures))
    warm_start(trainer.task.adapter, trained[0])
    start = weights(trainer)
    trainer.step()
    assert any(not torch.equal(start[name], now) for name, now in weights(trainer).items())


@pytest.mark.parametrize("damage", ["header", "integers"])
def test_a_damaged_file_changes_nothing(tmp_path, damage):
    adapter = tiny_host().adapter.module
    before = {name: tensor.clone() for name, tensor in adapter.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    if damage == "integers":
        state["null_cls"] = state["null_cls"].int()
    save_file(state, tmp_path / "odd.safetensors", metadata={"config": "[1" if damage == "header" else "{}"})
    with pytest.raises(ValueError, match="^odd.safetensors (does not hold a whole|holds null_cls as)"):
        warm_start(adapter, tmp_path / "odd.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor in adapter.state_dict().items())
