import dataclasses

import pytest
import torch

from dinotile.standalone.engine import Upscaler
from dinotile.standalone.settings import UpscaleSettings
from dinotile.tiling.plan import plan_tiles

from ..dino.tiny import TINY, tiny_encoder
from .tiny import picture, tiny_adapter, tiny_flux, tiny_vae

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=2, strength=0.5)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    from dinotile.dino.specs import SPECS

    for name, spec in TINY.items():
        monkeypatch.setitem(SPECS, name, spec)


@pytest.fixture
def guided(flux, vae):
    return Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), adapter=tiny_adapter(flux))


def test_no_dino_an_untrained_adapter_and_strength_zero_are_equal_bit_for_bit(flux, vae, guided):
    pixels = picture(60, 75)
    plain, _ = Upscaler(flux, vae).upscale(pixels, SETTINGS)
    untrained = Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), adapter=tiny_adapter(flux, trained=False))
    assert torch.equal(untrained.upscale(pixels, SETTINGS)[0], plain)
    off, report = guided.upscale(pixels, dataclasses.replace(SETTINGS, dino_strength=0))
    assert torch.equal(off, plain) and report["dino"] is None


def test_dino_acts_and_more_strength_acts_more(flux, vae, guided):
    pixels = picture(60, 75)
    plain, _ = Upscaler(flux, vae).upscale(pixels, SETTINGS)
    distances = []
    for strength in (0.25, 0.5, 1.0):
        result, report = guided.upscale(pixels, dataclasses.replace(SETTINGS, dino_strength=strength))
        distances.append(float((result - plain).abs().mean()))
    assert report["dino"] == {"model": "tiny-v2", "layers": "3"}
    assert 0 < distances[0] < distances[1] < distances[2]


def test_bfloat16_is_float32_within_its_precision(guided):
    pixels = picture(60, 75)
    expected, _ = guided.upscale(pixels, SETTINGS)
    flux = tiny_flux()
    half = Upscaler(flux, tiny_vae(), dino=tiny_encoder("tiny-v2"), adapter=tiny_adapter(flux), dtype=torch.bfloat16)
    result, _ = half.upscale(pixels, SETTINGS)
    assert result.dtype == torch.float32
    assert (result - expected).abs().mean() < 0.01


def test_a_picture_is_encoded_once_for_all_seeds_and_tiles(guided):
    for seed in range(3):
        guided.upscale(picture(60, 75), dataclasses.replace(SETTINGS, seed=seed))
    assert guided.dino.computed == 1


def test_the_tile_batch_does_not_change_a_guided_picture(guided):
    pixels = picture(60, 75, batch=2)
    expected, _ = guided.upscale(pixels, SETTINGS)
    for tile_batch in (1, 5):
        result, _ = guided.upscale(pixels, dataclasses.replace(SETTINGS, tile_batch=tile_batch))
        assert (result - expected).abs().max() < 1e-5


def test_each_tile_gets_the_features_of_its_own_region_and_picture(guided):
    """Regions are fractions of the picture without its padding: 120 x 150 px on a canvas of 128 x 160."""
    seen = []
    velocity = guided.dino_flux.velocity
    guided.dino_flux.velocity = lambda *args, rows, **more: seen.extend(rows) or velocity(*args, rows=rows, **more)
    guided.upscale(picture(60, 75, batch=2), dataclasses.replace(SETTINGS, steps=1))
    plan = plan_tiles(128, 160, tile=64, overlap=16)
    expected = [
        (image, (box.top / 120, box.left / 150, box.height / 120, box.width / 150))
        for image in (0, 1)
        for box in plan.boxes
    ]
    assert [row.image for row in seen] == [image for image, _ in expected]
    for row, (_, box) in zip(seen, expected, strict=True):
        assert row.box == pytest.approx(box)
    assert max(row.box[0] + row.box[2] for row in seen) == pytest.approx(128 / 120)


def test_a_wrong_or_half_pair_is_refused_before_any_work(flux, vae):
    with pytest.raises(ValueError, match="a DINO model was given without an adapter"):
        Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"))
    with pytest.raises(ValueError, match="tiny-v2-reg layers 3, the adapter was made for tiny-v2 layers 3"):
        Upscaler(flux, vae, dino=tiny_encoder("tiny-v2-reg"), adapter=tiny_adapter(flux))
    with pytest.raises(ValueError, match="layers 4, the adapter was made for tiny-v2 layers 3"):
        Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), adapter=tiny_adapter(flux), dino_layers="last")
