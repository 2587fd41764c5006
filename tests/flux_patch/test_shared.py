"""Tokens of the whole picture that every tile sees: a FlatDINO's latents in an adapter."""

from dataclasses import replace

import pytest
import torch

from dinotile.dino.compress.checkpoint import LoadedFlat, fingerprint_of
from dinotile.dino.compress.config import FlatConfig
from dinotile.dino.compress.model import new_flat
from dinotile.flux_patch.checkpoint import load_adapter, new_adapter, save_adapter
from dinotile.flux_patch.rows import WHOLE, DinoRow, make_call
from dinotile.flux_patch.schedule import Strength

from .conftest import make_features, trained_like

TOKENS = 5
LEFT = (0.0, 0.0, 1.0, 0.5)


@pytest.fixture
def flat():
    config = FlatConfig("dinov2-demo", 24, "3", (4, 4), tokens=TOKENS, features=3, encoder="p", decoder="p", half=True)
    module = new_flat(config, seed=1).eval().requires_grad_(False)
    return LoadedFlat(module, fingerprint_of(module))


@pytest.fixture
def shared(config, flat):
    return trained_like(new_adapter(replace(config, flat=flat.config), seed=3, flat=flat))


def call_of(adapter, tokens, box=WHOLE):
    call = make_call(
        adapter,
        [DinoRow(tokens, box=box, settings=Strength(1.0))],
        sigmas=torch.tensor([0.5]),
        token_size=(4, 4),
        percent_to_sigma=lambda percent: 1 - percent,
        dtype=torch.float32,
    )
    assert call is not None
    return call


def added(call):
    q = torch.randn(1, 2, 16, 128, generator=torch.Generator().manual_seed(1))
    return call.attend("double.0", q, torch.zeros(1, 16, 256))


def test_each_region_gets_its_own_patches_and_the_latents_of_the_whole(shared, flat, features):
    tokens = shared.module.project(features)
    left, right = (call_of(shared, tokens, box).regions.sequence[0] for box in (LEFT, (0.0, 0.5, 1.0, 0.5)))
    assert left.shape == (1 + 16 + TOKENS, 32) == (shared.config.tokens, 32)
    assert torch.equal(left[-TOKENS:], right[-TOKENS:]) and not torch.equal(left[1:17], right[1:17])
    resized = torch.nn.functional.interpolate(features.patches.movedim(-1, 1), (4, 4), mode="bilinear", antialias=True)
    latents = flat.module.encode(resized.movedim(1, -1))
    module = shared.module.shared
    assert torch.allclose(left[-TOKENS:], module.out(module.norm(latents))[0], atol=1e-6)


def test_each_picture_of_a_batch_has_its_own(shared):
    both = shared.module.project(make_features(seed=4, batch=2))
    wide = both.to("cpu", torch.float64)
    assert wide.shared.dtype == torch.float64
    found = [wide.sequence(image, WHOLE, 4)[-TOKENS:] for image in (0, 1, 2)]
    assert all(torch.equal(one, both.shared[image % 2].double()) for image, one in enumerate(found))
    assert not torch.equal(found[0], found[1])


def test_they_have_no_place(shared, features):
    rotation = call_of(shared, shared.module.project(features)).key_rotation
    unmoved = torch.eye(2).expand_as(rotation[-TOKENS:])
    assert torch.equal(rotation[-TOKENS:], unmoved) and not torch.equal(rotation[1:TOKENS], unmoved[1:])


def test_swapped_latents_change_what_a_site_adds_and_the_same_ones_do_not(shared):
    tokens, other = (shared.module.project(make_features(seed=seed)) for seed in (0, 1))
    first = added(call_of(shared, tokens))
    assert torch.equal(added(call_of(shared, replace(tokens))), first)
    assert (added(call_of(shared, replace(tokens, shared=other.shared))) - first).abs().max() > 1e-3


def test_the_learned_null_has_shared_tokens_too(shared):
    assert torch.equal(call_of(shared, None).regions.sequence[0, -1], shared.module.null_shared)


def test_the_text_is_told_of_the_region_alone(shared, config, features):
    tokens = shared.module.project(features)
    context = call_of(shared, tokens).context
    assert context is not None and context.shape == (1, 1 + config.context_grid**2, config.geometry.context)
    assert torch.equal(call_of(shared, replace(tokens, shared=torch.randn(1, TOKENS, 32))).context, context)
    assert not torch.equal(call_of(shared, replace(tokens, patches=tokens.patches.flip(1))).context, context)


def test_the_flatdino_lies_in_the_file_and_no_optimiser_finds_it(shared, flat, features, tmp_path):
    save_adapter(shared, tmp_path / "a.safetensors")
    again = load_adapter(tmp_path / "a.safetensors")
    assert again.config == shared.config and again.fingerprint == shared.fingerprint
    assert torch.equal(again.module.project(features).shared, shared.module.project(features).shared)
    assert not any("flat" in name for name, _ in shared.module.named_parameters())
    theirs = flat.module.state_dict()
    kept = {name: tensor for name, tensor in again.module.shared.flat.state_dict().items()}
    assert kept and all(torch.equal(tensor, theirs[name]) for name, tensor in kept.items())
    assert not any(name.startswith("decoder") for name in kept)


def test_in_half_precision_it_is_nearly_the_same(shared, features):
    tokens = shared.module.project(features).shared
    half = shared.module.to(torch.bfloat16).project(features.to("cpu", torch.bfloat16)).shared
    assert half.dtype == torch.bfloat16 and (half.float() - tokens).abs().max() < 0.05 * tokens.abs().max()


@pytest.mark.parametrize("change", [{"how": "2"}, {"dino": "dinov2-base"}, {"width": 25}])
def test_a_flatdino_of_other_features_is_refused_with_both_sides_named(config, flat, change):
    with pytest.raises(ValueError, match="the adapter's features are dinov2-demo layers 3, 24 wide.*this FlatDINO"):
        replace(config, flat=replace(flat.config, **change))


def test_an_adapter_with_shared_tokens_is_not_made_without_its_flatdino(config, flat):
    with pytest.raises(ValueError, match="made with the FlatDINO of its configuration"):
        new_adapter(replace(config, flat=flat.config))
