"""Guidance of estimates: energies are zero where nothing has drifted, steps are as long as they must be."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from dinotile import demo
from dinotile.dino.encode import DinoEncoder
from dinotile.dino.guidance import energy
from dinotile.dino.guidance.autoencoder import Autoencoder, Canvas
from dinotile.dino.guidance.energy import DinoEnergy
from dinotile.dino.guidance.start import features_of, guided_estimates
from dinotile.dino.guidance.x0 import Anchor, Descent, GuidanceSettings, GuidedEstimates
from dinotile.files.pictures import load_picture
from dinotile.hosts.diffusers.load import load_vae
from dinotile.hosts.diffusers.vae import decode, encode

from ..tiny import picture, tiny_vae
from .tiny import tiny_encoder


@pytest.fixture(scope="module")
def vae():
    return tiny_vae().eval().requires_grad_(False)


@pytest.fixture
def canvas(vae):
    """96 x 128 px, of which the picture has 90 x 124."""

    def encode(seen):
        padded = nn.functional.pad(seen, (0, 4, 0, 6), mode="replicate")
        return vae.encode(padded * 2 - 1, return_dict=False)[0]

    return Canvas(lambda latents: vae.decode(latents, return_dict=False)[0] / 2 + 0.5, encode, (90, 124))


@pytest.fixture(scope="module")
def encoder() -> DinoEncoder:
    return tiny_encoder("tiny-v2")


def test_a_change_of_the_picture_is_one_of_the_latents(canvas):
    source = picture(45, 62)
    code = Autoencoder(canvas, source)
    assert code.picture(code.plain).shape == source.shape
    assert not code.change(torch.zeros_like(source)).any()
    wish = torch.zeros_like(source)
    wish[..., :20] = 0.2
    changed = code.change(wish)
    assert changed.shape == code.plain.shape
    assert changed[..., :2].abs().mean() > 10 * changed[..., -2:].abs().mean()  # the right has nothing to do with it


def test_the_anchor_brings_the_demos_latents_to_the_source_in_one_step():
    vae, source = load_vae(demo.VAE), load_picture(demo.SAMPLE).pixels[..., :64, :64]
    code = Autoencoder(Canvas(partial(decode, vae), partial(encode, vae), (128, 128)), source)
    far = code.plain + 0.5 * torch.randn(code.plain.shape, generator=torch.Generator().manual_seed(0))
    guided = GuidedEstimates([code], [{"anchor": Anchor(source, 1.0)}], GuidanceSettings())
    errors = [float((code.picture(it) - source).square().mean()) for it in (far, guided(far, 0.5, start=0.5))]
    assert errors[1] < 0.2 * errors[0]
    half = GuidedEstimates([code], [{"anchor": Anchor(source, 0.5)}], GuidanceSettings())(far, 0.5, start=0.5)
    assert errors[1] < float((code.picture(half) - source).square().mean()) < 0.6 * errors[0]


def test_what_the_autoencoder_gives_agrees_and_the_gradient_is_true(encoder):
    source, other = picture(48, 64), picture(48, 64, seed=1)
    reachable = (source + 0.02 * torch.randn(source.shape)).clamp(0, 1)
    by_dino = DinoEnergy(features_of(encoder), source=source, reachable=reachable, patch=14, most_side=112)
    for call in range(4):
        value, gradient = by_dino(reachable, call=call)
        assert value == 0 and not gradient.any()
    value, gradient = by_dino(other, call=0)
    assert value > 0
    small = 1e-3 * gradient / gradient.norm()
    risen = by_dino(other + small, call=0)[0] - by_dino(other - small, call=0)[0]
    assert float(risen) == pytest.approx(2e-3 * float(gradient.norm()), rel=0.05)


def test_a_dino_that_gives_nan_is_not_taken_for_agreement(x0):
    def broken(pixels, side):
        return torch.full((1, 2, 2, 8), math.nan) * pixels.mean()

    by_dino = DinoEnergy(broken, source=x0, reachable=x0, patch=14, most_side=28)
    guided = run(Descent(by_dino, 1.0))
    assert torch.equal(guided(x0, 0.9, start=1.0), x0)
    told = guided.report()["pictures"][0]["far"]
    assert (told["agreed"], told["not_finite"]) == (0, 1)


def test_a_view_that_agrees_gets_no_gradient(encoder, monkeypatch):
    monkeypatch.setattr(energy, "PIECE", 56)
    source = picture(28, 112)
    spoilt = source.clone()
    spoilt[..., 92:] = 1 - spoilt[..., 92:]
    by_dino = DinoEnergy(features_of(encoder), source=source, reachable=source, patch=14, most_side=112)
    assert len(by_dino.views) == 2
    value, gradient = by_dino(spoilt, call=0)
    assert value > 0
    assert gradient[..., 80:].abs().max() > 0
    assert not gradient[..., : 56 - by_dino.reach].any()


def test_references_beyond_the_bytes_that_are_kept_are_made_again(encoder):
    source, other = picture(28, 28), picture(28, 28, seed=1)
    kept = DinoEnergy(features_of(encoder), source=source, reachable=source, patch=14, most_side=112)
    value, _ = kept(other, call=0)
    assert len(kept.known) == energy.AT_ONCE
    made = DinoEnergy(features_of(encoder), source=source, reachable=source, patch=14, most_side=112, keep=0)
    assert made(other, call=0)[0] == value and not made.known


def test_the_pictures_of_a_batch_share_the_bytes_that_are_kept(canvas, encoder):
    settings = GuidanceSettings(anchor=0.0, dino=1.0)
    guided = guided_estimates(picture(45, 62, batch=4), settings, canvas=canvas, encoder=encoder)
    assert sum(forces["dino"].energy.keep for forces in guided.forces) == energy.KEPT


class Far:
    """Half the squared distance from ``goal``, as an energy of a picture."""

    def __init__(self, goal):
        self.goal = goal

    def __call__(self, shown, *, call):
        apart = shown - self.goal
        return apart.square().sum() / 2, apart


def run(force, settings=None, **more):
    """On pictures that are their own latents."""
    code = Autoencoder(Canvas(lambda latents: latents, lambda pixels: pixels, (4, 6)), torch.zeros(1, 3, 4, 6))
    return GuidedEstimates([code], [{"far": force}], settings or GuidanceSettings(), **more)


@pytest.fixture
def x0():
    return torch.rand(1, 3, 4, 6) + 1


def test_a_step_down_a_parabola_goes_half_the_way_and_strength_scales_it(x0):
    goal = x0 - 0.1  # Polyak: f / |f'|^2 f' of |d|^2 / 2 is d / 2
    half = run(Descent(Far(goal), 1.0))(x0, 0.9, start=1.0)
    whole = run(Descent(Far(goal), 2.0))(x0, 0.9, start=1.0)
    assert (half - (x0 - 0.05)).abs().max() < 1e-6
    assert (whole - goal).abs().max() < 1e-6


def test_an_anchor_goes_its_share_of_the_way(x0):
    goal = x0 - 0.1
    for strength, every, share in ((1.0, 1, 1.0), (0.5, 1, 0.5), (0.5, 2, 0.75), (1.0, 3, 1.0)):
        moved = run(Anchor(goal, strength), GuidanceSettings(every=every))(x0, 0.9, start=1.0)
        assert (moved - (x0 - 0.1 * share)).abs().max() < 1e-6


def test_a_force_acts_on_what_the_one_before_gives(x0):
    guided = run(Anchor(x0 - 0.1, 0.5))
    guided.forces = [{"anchor": Anchor(x0 - 0.1, 0.5), "far": Descent(Far(x0 - 0.1), 1.0)}]
    assert (guided(x0, 0.9, start=1.0) - (x0 - 0.075)).abs().max() < 1e-6


def test_a_picture_that_agrees_is_left_bit_for_bit(x0):
    guided = run(Descent(Far(x0), 1.0))
    assert torch.equal(guided(x0, 0.9, start=1.0), x0)
    assert guided.report()["pictures"][0]["far"]["agreed"] == 1


def test_a_runaway_is_no_longer_than_the_pictures_contrast(x0):
    moved = run(Descent(Far(x0 - 1e6), 1.0))(x0, 0.5, start=1.0)
    assert float((moved - x0).square().mean().sqrt()) == pytest.approx(float(x0.std()), rel=1e-4)


@pytest.mark.parametrize("spoil", [math.nan, math.inf])
@pytest.mark.parametrize("force", [Anchor, lambda goal, strength: Descent(Far(goal), strength)])
def test_a_step_that_is_not_finite_is_left_out_and_counted(x0, spoil, force):
    guided = run(force(torch.full_like(x0, spoil), 1.0))
    assert torch.equal(guided(x0, 0.9, start=1.0), x0)
    told = guided.report()["pictures"][0]["far"]
    assert (told["moved"], told["not_finite"]) == (0, 1)


def test_the_window_and_every_nth_step(x0):
    settings = GuidanceSettings(low=0.25, high=0.75, every=2)
    guided = run(Descent(Far(x0 - 0.1), 1.0), settings)
    moved = [not torch.equal(guided(x0, sigma, start=0.8), x0) for sigma in (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)]
    assert moved == [False, True, False, True, False, True, False]
    assert guided.report()["outside_window"] == 2
    twice = run(Descent(Far(x0 - 0.1), 1.0), settings)(x0, 0.5, start=0.8)
    assert (twice - (x0 - 0.1)).abs().max() < 1e-6  # what two single steps of that length would do


def test_the_first_noise_level_is_within_the_window_however_a_sampler_rounds_it(x0):
    guided = run(Anchor(x0 - 0.1, 1.0))
    for sigma, acts in ((0.35 * (1 + 1e-7), True), (0.35 * 1.01, False)):
        assert torch.equal(guided(x0, sigma, start=0.35), x0) is not acts


def test_a_latent_whose_size_changed_within_the_run_is_refused_in_a_sentence(x0):
    with pytest.raises(ValueError, match="began on a latent of 6 x 4 cells, the sampler goes on with one of 12 x 8: "):
        run(Anchor(x0 - 0.1, 1.0))(x0.repeat(1, 1, 2, 2), 0.9, start=1.0)


def test_a_mask_says_where_and_no_input_is_written_to(x0):
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., 3:] = 1
    before = x0.clone()
    moved = run(Descent(Far(x0 - 0.1), 1.0), mask=mask)(x0, 0.9, start=1.0)
    assert torch.equal(x0, before)
    assert torch.equal(moved[..., :3], x0[..., :3]) and (moved[..., 3:] < x0[..., 3:]).all()


def test_a_forces_own_mask_says_where_it_acts(x0):
    goal, mask = picture(4, 6), torch.zeros(1, 1, 4, 6)
    mask[..., 3:] = 1
    step = Descent(Far(goal), 1.0, mask).step(goal + 0.1, latent=0, call=0, times=1)
    whole = Descent(Far(goal), 1.0).step(goal + 0.1, latent=0, call=0, times=1)
    assert torch.equal(step, whole * mask) and (whole < 0).all()
    assert Descent(Far(goal), 1.0, mask).again().mask is mask


def test_gradients_are_averaged_over_steps_for_each_latent_apart(x0):
    force = Descent(Far(x0 - 0.1), 1.0)
    guided = run(force)
    both = torch.cat([x0, x0 + 0.2])
    first = guided(both, 0.9, start=1.0)
    assert (first[:1] - run(Descent(Far(x0 - 0.1), 1.0))(x0, 0.9, start=1.0)).abs().max() < 1e-6
    force.energy = Far(x0 + 0.1)  # now the other way: what was is half of the mean
    second = guided(both, 0.8, start=1.0)
    plain = run(Descent(Far(x0 + 0.1), 1.0))(both, 0.8, start=1.0)
    assert not torch.equal(second, plain)
    assert sorted(force.before) == [0, 1]


def test_another_run_knows_nothing_of_the_gradients_of_the_first(x0):
    force = Descent(Far(x0 - 0.1), 1.0)
    guided = run(force)
    guided(x0, 0.9, start=1.0)
    force.energy = Far(x0 + 0.1)
    fresh = run(Descent(Far(x0 + 0.1), 1.0))(x0, 0.4, start=0.5)
    assert torch.equal(guided.again()(x0, 0.4, start=0.5), fresh)
    assert not torch.equal(guided(x0, 0.4, start=0.5), fresh)


def test_estimates_of_an_inference_mode_are_guided(canvas, encoder):
    with torch.inference_mode():
        source = picture(45, 62)
        settings = GuidanceSettings(anchor=0.5, dino=1.0)
        guided = guided_estimates(source, settings, canvas=canvas, encoder=encoder)
        x0 = 3 * torch.randn(1, 16, 12, 16)
        moved = guided(x0, 0.5, start=0.5)
    told = guided.report()["pictures"][0]
    assert list(told) == ["anchor", "dino"] and all(force["moved"] == 1 for force in told.values())
    assert not torch.equal(moved, x0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"anchor": 1.1}, "guidance anchor 1.1 must be from 0 to 1"),
        ({"dino": math.nan}, "guidance dino nan must be from 0 to 10"),
        ({"low": 0.5, "high": 0.5}, "guidance window 0.5 to 0.5 must rise"),
        ({"anchor": 1.0, "dino": 0.1}, "guide has nothing to do beside anchor 1"),
        ({"every": 0}, "guidance every 0 must be 1 or more"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        GuidanceSettings(**options)
