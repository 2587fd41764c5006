"""Guidance of estimates: pieces are the whole, energies are zero where nothing has drifted, steps are as long as they must be."""

import math

import pytest
import torch
from torch import nn

from dinotile.dino.encode import DinoEncoder
from dinotile.dino.guidance import decoded, energy
from dinotile.dino.guidance.decoded import Decoder
from dinotile.dino.guidance.energy import DinoEnergy, SourceEnergy
from dinotile.dino.guidance.start import Canvas, features_of, guided_estimates
from dinotile.dino.guidance.x0 import Force, GuidanceSettings, GuidedEstimates

from ..tiny import picture, tiny_vae
from .tiny import tiny_encoder

CELL = 8


@pytest.fixture(scope="module")
def vae():
    return tiny_vae().eval().requires_grad_(False)


@pytest.fixture
def decode(vae):
    return lambda latents: vae.decode(latents, return_dict=False)[0] / 2 + 0.5


@pytest.fixture(scope="module")
def encoder() -> DinoEncoder:
    return tiny_encoder("tiny-v2")


def latents_of(vae, pixels, *, height=96, width=128):
    large = nn.functional.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        return vae.encode(large * 2 - 1, return_dict=False)[0]


def test_a_canvas_in_pieces_is_the_whole_and_so_is_its_gradient(vae, decode, monkeypatch):
    latents, wish = latents_of(vae, picture(48, 64)), torch.randn(1, 3, 45, 60)
    whole = Decoder(decode, cell=CELL, size=(90, 120), source=(45, 60))
    shown, pull = whole(latents)
    expected = pull(wish)
    monkeypatch.setattr(decoded, "MARGIN", 10)  # all that this decoder sees
    pieces = Decoder(decode, cell=CELL, size=(90, 120), source=(45, 60))
    pieces.piece = 5
    found, pull = pieces(latents)
    assert (found - shown).abs().max() < 1e-5
    assert (
        pull(wish) - expected
    ).abs().max() < 0.01 * expected.abs().max()  # a ReLU here and there turns over by rounding


def test_where_memory_does_not_suffice_pieces_become_smaller_for_good(vae, decode, caplog):
    most = []

    def narrow(latents):
        if latents.shape[-1] > 60:
            raise torch.OutOfMemoryError("no memory")
        most.append(latents.shape[-1])
        return decode(latents)

    decoder = Decoder(narrow, cell=CELL, size=(64, 640), source=(32, 320))
    shown, pull = decoder(torch.randn(1, 16, 8, 80))
    assert shown.shape == (1, 3, 32, 320) and pull(shown).shape == (1, 16, 8, 80)
    assert decoder.piece == 48 and max(most) <= 56
    assert "decodes 384 px at a time now" in caplog.text

    def none(latents):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        Decoder(none, cell=CELL, size=(64, 640), source=(32, 320))(torch.randn(1, 16, 8, 80))


def test_what_the_autoencoder_gives_agrees_and_its_gradients_are_true(encoder):
    source, other = picture(48, 64), picture(48, 64, seed=1)
    reachable = (source + 0.02 * torch.randn(source.shape)).clamp(0, 1)
    by_source = SourceEnergy(source, reachable)
    by_dino = DinoEnergy(features_of(encoder), source=source, reachable=reachable, patch=14, most_side=112)
    assert by_source(reachable, call=0)[0] == 0
    for call in range(4):
        value, gradient = by_dino(reachable, call=call)
        assert value == 0 and not gradient.any()
    for one in (by_source, by_dino):
        value, gradient = one(other, call=0)
        assert value > 0
        small = 1e-3 * gradient / gradient.norm()
        risen = one(other + small, call=0)[0] - one(other - small, call=0)[0]
        assert float(risen) == pytest.approx(2e-3 * float(gradient.norm()), rel=0.05)


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


def test_references_beyond_the_bytes_that_are_kept_are_made_again(encoder, monkeypatch):
    source, other = picture(28, 28), picture(28, 28, seed=1)
    kept = DinoEnergy(features_of(encoder), source=source, reachable=source, patch=14, most_side=112)
    value, _ = kept(other, call=0)
    assert len(kept.known) == energy.AT_ONCE
    monkeypatch.setattr(energy, "KEPT", 0)
    made = DinoEnergy(features_of(encoder), source=source, reachable=source, patch=14, most_side=112)
    assert made(other, call=0)[0] == value and not made.known


class Far:
    """Half the squared distance from ``goal``, as an energy of a picture that the identity decodes."""

    def __init__(self, goal):
        self.goal = goal

    def __call__(self, shown, *, call):
        apart = shown - self.goal
        return apart.square().sum() / 2, apart


def run(force, settings=None, **more):
    decoder = Decoder(lambda latents: latents, cell=1, size=(4, 6), source=(4, 6))
    return GuidedEstimates([decoder], [{"far": force}], settings or GuidanceSettings(), **more)


@pytest.fixture
def x0():
    return torch.rand(1, 3, 4, 6) + 1


def test_a_step_of_strength_one_goes_half_the_way_on_a_parabola_and_strength_scales_it(x0):
    goal = x0 - 0.1  # Polyak: f / |f'|^2 f' of |d|^2 / 2 is d / 2
    half = run(Force(Far(goal), 1.0))(x0, 0.9, start=1.0)
    whole = run(Force(Far(goal), 2.0))(x0, 0.9, start=1.0)
    assert (half - (x0 - 0.05)).abs().max() < 1e-6
    assert (whole - goal).abs().max() < 1e-6


def test_a_runaway_is_no_longer_than_sigma_allows(x0):
    moved = run(Force(Far(x0 - 1e6), 1.0))(x0, 0.5, start=1.0)
    length = (moved - x0).square().mean().sqrt() / x0.square().mean().sqrt()
    assert float(length) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("spoil", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_left_out_and_counted(x0, spoil):
    guided = run(Force(Far(torch.full_like(x0, spoil)), 1.0))
    assert torch.equal(guided(x0, 0.9, start=1.0), x0)
    told = guided.report()["pictures"][0]["far"]
    assert (told["moved"], told["not_finite"]) == (0, 1)


def test_the_window_and_every_nth_step(x0):
    settings = GuidanceSettings(low=0.25, high=0.75, every=2)
    guided = run(Force(Far(x0 - 0.1), 1.0), settings)
    moved = [not torch.equal(guided(x0, sigma, start=0.8), x0) for sigma in (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)]
    assert moved == [False, True, False, True, False, True, False]
    assert guided.report()["outside_window"] == 2
    twice = run(Force(Far(x0 - 0.1), 1.0), settings)(x0, 0.5, start=0.8)
    assert (twice - (x0 - 0.1)).abs().max() < 1e-6  # what two single steps of that length would do


def test_a_mask_says_where_and_no_input_is_written_to(x0):
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., 3:] = 1
    before = x0.clone()
    moved = run(Force(Far(x0 - 0.1), 1.0), mask=mask)(x0, 0.9, start=1.0)
    assert torch.equal(x0, before)
    assert torch.equal(moved[..., :3], x0[..., :3]) and (moved[..., 3:] < x0[..., 3:]).all()


def test_gradients_are_averaged_over_steps_for_each_latent_apart(x0):
    force = Force(Far(x0 - 0.1), 1.0, kept=0.5)
    guided = run(force)
    both = torch.cat([x0, x0 + 0.2])
    first = guided(both, 0.9, start=1.0)
    assert (first[:1] - run(Force(Far(x0 - 0.1), 1.0, kept=0.5))(x0, 0.9, start=1.0)).abs().max() < 1e-6
    force.energy = Far(x0 + 0.1)  # now the other way: what was is half of the mean
    second = guided(both, 0.8, start=1.0)
    plain = run(Force(Far(x0 + 0.1), 1.0))(both, 0.8, start=1.0)
    assert not torch.equal(second, plain)
    assert sorted(force.before) == [0, 1]


def test_estimates_of_an_inference_mode_are_guided(vae, decode, encoder):
    with torch.inference_mode():
        source = picture(48, 64)
        guided = guided_estimates(
            source,
            latents_of(vae, source),
            GuidanceSettings(anchor=1.0, dino=1.0),
            canvas=Canvas(decode, CELL, (96, 128)),
            encoder=encoder,
        )
        x0 = 3 * torch.randn(1, 16, 12, 16)
        moved = guided(x0, 0.5, start=0.5)
    told = guided.report()["pictures"][0]
    assert list(told) == ["anchor", "dino"] and all(force["moved"] == 1 for force in told.values())
    errors = [guided.decoders[0](it.clone())[0].sub(source).square().mean() for it in (moved, x0)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"anchor": -1}, "guidance anchor -1 must be from 0 to 2"),
        ({"dino": math.nan}, "guidance dino nan must be from 0 to 10"),
        ({"low": 0.5, "high": 0.5}, "guidance window 0.5 to 0.5 must rise"),
        ({"every": 0}, "guidance every 0 must be 1 or more"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        GuidanceSettings(**options)
