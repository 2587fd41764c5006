"""Options of an adapter: without positions, and with a hidden layer on the way to the text."""

from dataclasses import asdict, replace

import pytest
import torch

from dinotile.flux_patch.checkpoint import config_from, load_adapter, new_adapter, save_adapter
from dinotile.flux_patch.rows import DinoRow, make_call
from dinotile.flux_patch.schedule import Strength
from dinotile.flux_patch.tokens import DinoTokens

from .conftest import make_features, trained_like


def added(config, *, flip):
    """What a site adds for one picture, or for the same picture mirrored, and the queries' own mirror image."""
    adapter = trained_like(new_adapter(config, seed=3))
    tokens = adapter.module.project(make_features(seed=0, height=8, width=8))
    if flip:  # after the convolution, so that only the places of the tokens change
        tokens = DinoTokens(tokens.patches.flip(2), tokens.cls)
    call = make_call(
        adapter,
        [DinoRow(tokens, settings=Strength(1.0))],
        sigmas=torch.tensor([0.5]),
        token_size=(4, 4),
        percent_to_sigma=lambda percent: 1 - percent,
        dtype=torch.float32,
    )
    assert call is not None
    q = torch.randn(1, 2, 16, 128, generator=torch.Generator().manual_seed(1))
    return call.attend("double.0", q, torch.zeros(1, 16, 256))


def test_without_positions_it_does_not_matter_where_a_token_lies(config):
    config = replace(config, positions=False)
    assert (added(config, flip=True) - added(config, flip=False)).abs().max() < 1e-5


def test_with_positions_it_does(config):
    assert (added(config, flip=True) - added(config, flip=False)).abs().max() > 1e-2


def test_a_hidden_layer_is_kept_in_the_file_and_changes_the_text_tokens(config, features, tmp_path):
    adapter = trained_like(new_adapter(replace(config, context_hidden=20), seed=3))
    save_adapter(adapter.module, tmp_path / "adapter.safetensors", trained=True)
    again = load_adapter(tmp_path / "adapter.safetensors")
    assert again.config.context_hidden == 20
    tokens = torch.randn(2, 1 + config.grid**2, config.width, generator=torch.Generator().manual_seed(2))
    found = again.module.context_tokens(tokens)
    assert found.shape == (2, 1 + config.context_grid**2, config.geometry.context)
    with torch.no_grad():
        again.module.context_hidden.weight.zero_()
    assert (again.module.context_tokens(tokens) - found).abs().max() > 1e-2


def test_an_older_file_without_the_options_has_positions_and_no_hidden_layer(config):
    values = asdict(config)
    del values["positions"], values["context_hidden"]
    assert config_from(values, name="file") == config


MADE = [(1, "averaged"), (2, "averaged"), (2, "apart")]


@pytest.mark.parametrize("needs", MADE)
@pytest.mark.parametrize("gets", MADE)
def test_an_adapter_takes_the_features_that_it_was_made_for_and_no_others(config, features, needs, gets):
    module = new_adapter(replace(config, crops=needs[0], scales=needs[1])).module
    given = replace(features, crops=gets[0], scales=gets[1])
    if needs == gets:
        assert len(module.project(given)) == len(given.patches)
        return
    with pytest.raises(
        ValueError, match=f"layers {given.how}, the adapter was made for .* layers {module.config.how}: "
    ):
        module.project(given)


def test_the_file_says_so_and_one_of_an_adapter_as_ever_is_as_ever(config, tmp_path):
    apart = replace(config, crops=2, scales="apart")
    for kind in (apart, config):
        save_adapter(new_adapter(kind), tmp_path / "adapter.safetensors")
        assert load_adapter(tmp_path / "adapter.safetensors").config == kind
    assert asdict(config).keys() - config.values().keys() == {"crops", "scales", "flat"}
    assert {**apart.values(), "flat": None} == asdict(apart)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"crops": 3}, "crops 3 must be 1"),
        ({"crops": 2.0}, "crops 2.0 must be a whole number"),
        ({"scales": "apart"}, "scales apart with crops 1"),
        ({"crops": 2, "scales": "x"}, "scales 'x' must be one of averaged, apart"),
    ],
)
def test_crops_and_scales_that_go_not_together_are_refused(config, wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(config, **wrong)


@pytest.mark.parametrize("width", [-1, 1.5, True])
def test_a_hidden_width_that_is_none_is_refused(config, width):
    with pytest.raises(ValueError, match="context_hidden .* must be a whole number"):
        replace(config, context_hidden=width)
