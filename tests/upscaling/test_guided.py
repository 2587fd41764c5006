"""Guidance of the estimates, by the one path of a picture."""

import dataclasses

import pytest
import torch

import dinotile
from dinotile import demo
from dinotile.files.pixels import resize
from dinotile.hosts.diffusers.load import load_vae
from dinotile.upscaling.api import load_upscaler, split_options
from dinotile.upscaling.masks import Masks
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import tiny_encoder
from ..tiny import picture, tiny_flux, tiny_vae

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=3, denoise=0.9)


@pytest.fixture(scope="module")
def flux():
    return tiny_flux()


@pytest.fixture(scope="module")
def vae():
    return tiny_vae()


@pytest.fixture
def upscaler(flux, vae):
    return Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), dino_uses=["guide"])


def off_by(result, source):
    return float((resize(result, height=source.shape[2], width=source.shape[3]) - source).square().mean())


def test_the_anchor_keeps_true_to_the_source_and_dino_adds_to_it(flux):
    vae = load_vae(demo.VAE)  # what is random encodes to no latents of its own
    upscaler = Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), dino_uses=["guide"])
    source, off = picture(48, 60, batch=2), {}
    for name, change in {
        "off": {},
        "anchor": {"anchor": 1.0},
        "guide": {"guide": 1.0},
        "both": {"anchor": 0.5, "guide": 1.0},
    }.items():
        result, report = upscaler.upscale(source, dataclasses.replace(SETTINGS, **change))
        off[name] = off_by(result, source)
        told = report["guidance"]
        assert (told is None) == (name == "off")
        if told:
            names = {"anchor": ["anchor"], "guide": ["dino"], "both": ["anchor", "dino"]}[name]
            assert [list(one) for one in told["pictures"]] == [names, names]
            for force in (force for one in told["pictures"] for force in one.values()):
                assert force["moved"] > 0 and force["moved"] + force["agreed"] == 3
            assert report["seconds"]["guidance"] > 0
    assert off["anchor"] < 0.1 * off["off"]
    assert off["guide"] != off["off"] and off["anchor"] < off["both"] < 0.5 * off["off"]


def test_off_and_outside_of_the_window_are_the_plain_path_bit_for_bit(upscaler, flux, vae):
    source = picture(60, 75)
    plain, _ = Upscaler(flux, vae).upscale(source, SETTINGS)
    off, report = upscaler.upscale(source, dataclasses.replace(SETTINGS, anchor=0.0, guide=0.0))
    assert torch.equal(off, plain) and report["guidance"] is None
    window = dataclasses.replace(SETTINGS, anchor=1.0, guide_from=0.02, guide_to=0.01)
    outside, report = upscaler.upscale(source, window)
    assert torch.equal(outside, plain) and report["guidance"]["outside_window"] == 3


def test_a_small_decoder_is_looked_with_and_turns_the_anchor_on(flux, vae, models):
    source, settings = picture(60, 75), dataclasses.replace(SETTINGS, anchor=1.0)
    by_vae, _ = Upscaler(flux, vae).upscale(source, settings)
    by_same, _ = Upscaler(flux, vae, decoder=tiny_vae()).upscale(source, settings)
    by_other, _ = Upscaler(flux, vae, decoder=tiny_vae(seed=1)).upscale(source, settings)
    assert torch.allclose(by_same, by_vae, atol=1e-4) and not torch.allclose(by_other, by_vae, atol=1e-4)
    for half in ("encoder", "decoder"):
        vae_of_two, other = tiny_vae(), tiny_vae(seed=1)
        setattr(vae_of_two, half, getattr(other, half))
        by_half, _ = Upscaler(flux, vae, decoder=vae_of_two).upscale(source, settings)
        assert not torch.allclose(by_half, by_vae, atol=1e-4)
    assert split_options({"decoder": "x"})[0].anchor == 1.0
    assert split_options({"decoder": "x", "anchor": 0.5})[0].anchor == 0.5
    assert split_options({})[0].anchor == 0.0
    assert split_options({"decoder": "x", "guide": 1.0})[0].anchor == 0
    with pytest.raises(ValueError, match="latent channels"):
        Upscaler(flux, vae, decoder=tiny_vae(latent=4))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"guide": 1.0, "no_dino": True}, "guide acts with a DINO model only"),
        ({"guide_every": 2}, "guide_every acts with anchor or guide above 0 only"),
        ({"decoder": "there/is.safetensors", "anchor": 0.0}, "decoder acts with anchor or guide above 0 only"),
        ({"guide": 1.0, "anchor": 1.0}, "guide has nothing to do beside anchor 1, which gives all of the source"),
        ({"anchor": 3.0}, "anchor 3.0 must be from 0 to 1"),
        ({"guide": 1.0, "guide_from": 0.01}, "guidance window 0.05 to 0.01 must rise"),
    ],
)
def test_what_would_do_nothing_or_is_out_of_range_is_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        dinotile.upscale(dinotile.demo.SAMPLE, **options)


def test_without_a_dino_model_a_guide_is_refused(flux, vae):
    with pytest.raises(ValueError, match="guide 1.0 leads to what DINO sees: give a DINO model"):
        Upscaler(flux, vae).upscale(picture(20, 30), dataclasses.replace(SETTINGS, guide=1.0))


def test_the_dino_mask_says_where_dino_guides(upscaler):
    source, settings = picture(40, 64), dataclasses.replace(SETTINGS, guide=5.0)
    guided, _ = upscaler.upscale(source, settings)
    plain, _ = upscaler.upscale(source, dataclasses.replace(settings, guide=0.0))
    assert (guided - plain).abs().max() > 0.01
    for grey, same in ((0.0, plain), (1.0, guided)):
        result, _ = upscaler.upscale(source, settings, masks=Masks(dino=torch.full((1, 1, 5, 8), grey)))
        assert (result - same).abs().max() < 1e-5
    with pytest.raises(
        ValueError, match="a DINO mask was given where DINO does not act: give a DINO model, and an adapter"
    ):
        upscaler.upscale(source, SETTINGS, masks=Masks(dino=torch.ones(1, 1, 5, 8)))


def test_the_command_lines_models_guide_without_an_adapter(models):
    upscaler = load_upscaler(model_path=models[1], dino=demo.DINO, dino_uses=["guide"])
    settings = dataclasses.replace(SETTINGS, guide=1.0, steps=1)
    _, report = upscaler.upscale(picture(20, 30), settings)
    assert report["dino"] is None and report["guidance"]["pictures"][0]["dino"]["moved"] == 1
