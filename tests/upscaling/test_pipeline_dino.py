import dataclasses

import pytest
import torch

from dinotile.flux_patch.checkpoint import new_adapter
from dinotile.flux_patch.families import plan_tiles
from dinotile.flux_patch.memo import RunMemo
from dinotile.flux_patch.rows import WHOLE, DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.host import Text
from dinotile.tiling.plan import Box
from dinotile.upscaling.joint import JointEuler, TileRow
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import tiny_encoder
from ..tiny import picture, tiny_adapter, tiny_flux, tiny_vae

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=2, denoise=0.5)


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


@pytest.mark.parametrize(("crops", "scales"), [(2, "averaged"), (2, "apart")])
def test_dino_sees_the_picture_as_the_adapter_needs_it(flux, vae, crops, scales):
    module = tiny_adapter(flux).module
    width = 64 * (2 if scales == "apart" else 1)
    config = dataclasses.replace(module.config, crops=crops, scales=scales, dino_width=width)
    guided = Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), adapter=new_adapter(config))
    _, report = guided.upscale(picture(60, 75), SETTINGS)
    assert report["dino"] == {"model": "tiny-v2", "layers": f"3 crops 2 {scales}"}


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
    velocity = guided.host.velocity
    guided.host.velocity = lambda *args, rows, **more: seen.extend(rows) or velocity(*args, rows=rows, **more)
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
    with pytest.raises(ValueError, match="an adapter was given without a DINO model"):
        Upscaler(flux, vae, adapter=tiny_adapter(flux), dino_uses=["guide"])
    with pytest.raises(ValueError, match="tiny-v2-reg layers 3, the adapter was made for tiny-v2 layers 3"):
        Upscaler(flux, vae, dino=tiny_encoder("tiny-v2-reg"), adapter=tiny_adapter(flux))
    with pytest.raises(ValueError, match="layers 4, the adapter was made for tiny-v2 layers 3"):
        Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), adapter=tiny_adapter(flux), dino_layers="last")


def test_dino_guidance_goes_on_from_the_learned_null(flux, guided):
    """v(3) = null + 3 * (v(1) - null), with the same text on both sides."""
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    text = Text(torch.randn(1, 8, 32), torch.randn(1, 16))
    plan = plan_tiles(64, 64, tile=64, overlap=16)
    guide = guided.guide(strength=1.0)(picture(64, 64), plan=plan, size=(64, 64))
    rows = [TileRow(0, Box(0, 0, 8, 8))]

    def velocity(guidance):
        sampler = JointEuler(guided.host, text, dataclasses.replace(SETTINGS, dino_guidance=guidance))
        with torch.no_grad():
            return sampler.velocity(x, 0.5, rows, canvas=(8, 8), guide=guide, memo=RunMemo())

    nulls = [DinoRow(None, 0, WHOLE, Strength(1.0))]
    null = guided.host.velocity(x, torch.tensor([0.5]), text=text, rows=nulls)
    usual = velocity(1.0)
    assert torch.allclose(velocity(3.0), null + 3 * (usual - null), atol=1e-5)
    assert not torch.allclose(velocity(3.0), usual, atol=1e-2)


def test_dino_guidance_makes_dino_act_more_and_nothing_without_dino(flux, vae, guided):
    pixels, twice = picture(60, 75), dataclasses.replace(SETTINGS, dino_guidance=2.0)
    plain, _ = Upscaler(flux, vae).upscale(pixels, SETTINGS)
    assert torch.equal(Upscaler(flux, vae).upscale(pixels, twice)[0], plain)
    usual, more = (guided.upscale(pixels, settings)[0] for settings in (SETTINGS, twice))
    assert (more - plain).abs().mean() > 1.2 * (usual - plain).abs().mean()


@pytest.mark.parametrize("guidance", [0.5, 31, float("nan")])
def test_dino_guidance_below_1_or_beyond_30_is_refused(guidance):
    with pytest.raises(ValueError, match="dino guidance .* must be from 1 to 30"):
        dataclasses.replace(SETTINGS, dino_guidance=guidance)
