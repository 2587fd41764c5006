"""The README's promise: the demo models upscale a photo that they never saw."""

import numpy as np
import pytest
import torch

from dinotile.demo import UPSCALER
from dinotile.demo.train.pictures import held_out, psnr
from dinotile.files.pixels import resize
from dinotile.flux_patch.families import plan_tiles
from dinotile.hosts.diffusers.upscale_model import enlarge, load_upscale_model
from dinotile.tiling.color import back_project
from dinotile.tiling.seams import border_ratio
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for

from ..near import assert_near

HEIGHT, WIDTH = 288, 448


@pytest.fixture(scope="module")
def upscaler():
    return load_upscaler("demo")


@pytest.fixture(scope="module")
def small():
    return resize(held_out(), height=HEIGHT // 2, width=WIDTH // 2)


@pytest.fixture(scope="module")
def tiled(upscaler, small):
    return upscaler.upscale(small, settings_for("demo"))


@pytest.fixture(scope="module")
def alone(upscaler, small):
    return upscaler.upscale(small, settings_for("demo", fidelity=0.0, vae_detail=0.0))[0]


def test_the_held_out_photo_comes_back_1_db_above_bicubic(tiled, small):
    pixels, report = tiled
    bicubic = psnr(resize(small, height=HEIGHT, width=WIDTH), held_out())
    assert report["tiles"]["count"] == 2 and pixels.shape == (1, 3, HEIGHT, WIDTH)
    assert report["upscale_model"]["file"] == "dinotile-demo.safetensors"
    assert psnr(pixels, held_out()) >= bicubic + 1


def test_its_upscaler_alone_beats_back_projection_on_photos_that_no_model_saw():
    """The cat and three of scikit-image's, shrunk and no more: PSNR in dB to the photo."""
    import skimage.data

    model, gains = load_upscale_model(UPSCALER), []
    pictures = [getattr(skimage.data, name)() for name in ("stereo_motorcycle", "immunohistochemistry", "coins")]
    pictures = [each[0] if isinstance(each, tuple) else each for each in pictures]
    shown = [torch.from_numpy(np.array(each if each.ndim == 3 else np.stack([each] * 3, -1))) for each in pictures]
    for true in [held_out(), *(each.permute(2, 0, 1)[None, :, :256, :256].float() / 255 for each in shown)]:
        height, width = true.shape[2:]
        source = resize(true, height=height // 2, width=width // 2)
        bicubic = resize(source, height=height, width=width)
        larger = enlarge(model, source, device=true.device)
        assert psnr(larger, true) > psnr(back_project(bicubic, source, fidelity=1.0), true)
        gains.append(psnr(larger, true) - psnr(bicubic, true))
    assert min(gains) > 0.8 and sum(gains) / len(gains) > 1


def test_flux_alone_denoises_it(alone):
    """At fidelity 1 much of the picture is the source's; this is what the toy models do without that."""
    assert psnr(alone, held_out()) >= 29


@pytest.mark.xfail(strict=True, reason="noise of t 0.3 costs the toy VAE's latents 2 dB: 29.8 dB, bicubic 33.8 dB")
def test_flux_alone_comes_within_3_db_of_bicubic(alone, small):
    """The bound for the models themselves, which fidelity does not help. It is to hold one day: then this test says so."""
    assert psnr(alone, held_out()) >= psnr(resize(small, height=HEIGHT, width=WIDTH), held_out()) - 3


@pytest.mark.parametrize("fidelity", [0.0, 1.0])
def test_tile_borders_are_no_more_visible_than_in_the_untiled_run(upscaler, tiled, alone, small, fidelity):
    whole, report = upscaler.upscale(small, settings_for("demo", tile=512, fidelity=fidelity, vae_detail=fidelity))
    pixels = tiled[0] if fidelity else alone
    assert report["tiles"]["count"] == 1
    plan = plan_tiles(HEIGHT, WIDTH, tile=256, overlap=32)
    assert border_ratio(pixels, plan) == pytest.approx(border_ratio(whole, plan), rel=0.05)


def test_the_shipped_adapter_acts_and_is_off_at_strength_zero(upscaler, tiled, small):
    pixels, report = tiled
    off, plain_report = upscaler.upscale(small, settings_for("demo", dino_strength=0.0))
    assert report["dino"] == {"model": "dinov2-demo", "layers": "3"} and plain_report["dino"] is None
    assert (pixels - off).abs().max() > 1e-4
    plain, _ = load_upscaler("demo", no_dino=True).upscale(small, settings_for("demo"))
    assert_near(off, plain)


def test_another_seed_computes_no_features_again(upscaler, tiled, small):
    before = upscaler.dino.computed
    upscaler.upscale(small, settings_for("demo", seed=1, steps=1))
    assert upscaler.dino.computed == before
