"""Guidance by text and by DINO: each acts alone, and both together are what ComfyUI's DualCFGGuider computes."""

import dataclasses

import pytest
import torch

from dinotile.flux_patch.memo import RunMemo
from dinotile.flux_patch.rows import WHOLE, DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.host import Text
from dinotile.tiling.plan import Box
from dinotile.upscaling.api import split_options
from dinotile.upscaling.joint import JointEuler, TileRow
from dinotile.upscaling.settings import UpscaleSettings, settings_for
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import tiny_encoder
from ..tiny import picture, tiny_adapter

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=1, denoise=0.5)


@pytest.fixture
def texts():
    generator = torch.Generator().manual_seed(0)
    return [
        Text(torch.randn(1, 8, 32, generator=generator), 3 * torch.randn(1, 16, generator=generator)) for _ in range(2)
    ]


@pytest.fixture
def upscaler(flux, vae, texts):
    return Upscaler(
        flux, vae, dino=tiny_encoder("tiny-v2"), adapter=tiny_adapter(flux), text=texts[0], negative=texts[1]
    )


@pytest.fixture
def parts(upscaler, texts):
    """v(text, DINO) of one tile, and how a sampler combines them."""
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas, box = torch.tensor([0.5]), Box(0, 0, 8, 8)
    plan = upscaler.host.latents.plan_tiles(64, 64, tile=64, overlap=16)
    guide = upscaler.guide(strength=1.0)(picture(64, 64), plan=plan, size=(64, 64))
    rows = {True: [guide.row(0, box, canvas=(8, 8))], False: [DinoRow(None, 0, WHOLE, Strength(1.0))]}

    @torch.no_grad()
    def velocity(text, dino, **guidance):
        if not guidance:
            return upscaler.host.velocity(x, sigmas, text=texts[text], rows=rows[dino])
        sampler = JointEuler(upscaler.host, texts[0], dataclasses.replace(SETTINGS, **guidance), negative=texts[1])
        return sampler.velocity(x, 0.5, [TileRow(0, box)], canvas=(8, 8), guide=guide if dino else None, memo=RunMemo())

    return velocity


def test_both_guidances_are_those_of_two_conditions_and_each_acts_alone(parts):
    guided, plain, negative = parts(0, True), parts(0, False), parts(1, False)
    for cfg, dino_guidance in ((1, 1), (2.5, 1), (1, 3), (2.5, 3)):
        by_text, by_dino = (cfg - 1) * (plain - negative), (dino_guidance - 1) * (guided - plain)
        result = parts(0, True, cfg=cfg, dino_guidance=dino_guidance)
        assert (result - (guided + by_text + by_dino)).abs().max() < 1e-4
        dual = negative + cfg * (plain - negative) + dino_guidance * (guided - plain)
        assert (result - dual).abs().max() < 1e-4
    assert (plain - negative).abs().max() > 1e-2 and (guided - plain).abs().max() > 1e-2


def test_cfg_without_dino_is_plain_cfg(flux, vae, texts):
    pixels = picture(40, 48)
    upscaler = Upscaler(flux, vae, text=texts[0], negative=texts[1])
    usual, more = (upscaler.upscale(pixels, dataclasses.replace(SETTINGS, cfg=cfg))[0] for cfg in (1, 3))
    assert (more - usual).abs().max() > 1e-3
    same = Upscaler(flux, vae, text=texts[0], negative=texts[0])
    assert (same.upscale(pixels, dataclasses.replace(SETTINGS, cfg=3))[0] - usual).abs().max() < 1e-5


def test_dino_guidance_asks_nothing_of_the_text(upscaler, flux, vae, texts):
    other = Upscaler(flux, vae, dino=upscaler.dino, adapter=tiny_adapter(flux), text=texts[0], negative=None)
    settings = dataclasses.replace(SETTINGS, dino_guidance=2.0)
    assert torch.equal(upscaler.upscale(picture(40, 48), settings)[0], other.upscale(picture(40, 48), settings)[0])


def test_guidance_that_could_not_act_is_refused(flux, vae):
    with pytest.raises(ValueError, match="cfg 2 guides by text, and there is none"):
        Upscaler(flux, vae).upscale(picture(40, 48), dataclasses.replace(SETTINGS, cfg=2))
    for cfg in ({}, {"cfg": None}, {"cfg": 1.0}):
        with pytest.raises(ValueError, match="negative acts with cfg above 1 only"):
            split_options({"negative": "a dog", **cfg})


@pytest.mark.parametrize(
    "option", [{"cfg": 2}, {"prompt": "a cat"}, {"mask_padding": True}, {"cfg": 2, "negative": "a dog"}]
)
def test_what_guides_by_text_is_refused_without_text_encoders_before_a_model_is_loaded(models, option):
    for variant in ("demo", "dev"):
        with pytest.raises(ValueError, match=f"^({'|'.join(option)}) acts with FLUX's text encoders"):
            split_options({**option, "variant": variant, "model_path": models[1]})
    split_options({**option, "variant": "dev"})


@pytest.mark.parametrize(
    "option", [{"dino_guidance": 3}, {"dino_strength": 0.5}, {"dino_layers": "last"}, {"dino_mask": "mask.png"}]
)
def test_what_guides_by_dino_is_refused_without_dino_before_a_model_is_loaded(option):
    for without in ({"no_dino": True}, {"variant": "schnell"}):
        with pytest.raises(ValueError, match=f"^{next(iter(option))} acts with a DINO model,? and its adapter "):
            split_options({**option, **without})
    split_options(option)
    split_options({**dict.fromkeys(option), "dino_strength": 0, "no_dino": True})


def test_options_come_apart_as_settings_models_and_masks():
    settings, models, masks = split_options({"cfg": 1.0, "strength": 0.4, "device": "cpu", "dino_mask": "a.png"})
    assert (settings, models, masks) == (settings_for("demo", denoise=0.4), {"device": "cpu"}, {"dino_mask": "a.png"})
