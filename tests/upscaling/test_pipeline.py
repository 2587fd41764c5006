import dataclasses

import numpy as np
import pytest
import torch

from dinotile.files.pixels import resize
from dinotile.flux_patch.families import plan_tiles
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.hosts.diffusers.flux import flux_velocity
from dinotile.hosts.host import Text
from dinotile.tiling.color import back_project
from dinotile.tiling.color_match import match_color
from dinotile.upscaling.joint import JointEuler, default_tile_batch, seeded_noise
from dinotile.upscaling.pipeline import upscale
from dinotile.upscaling.settings import UpscaleSettings, settings_for
from dinotile.upscaling.upscaler import Upscaler

from ..tiny import picture, tiny_flux, tiny_vae

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=2, denoise=0.5)


@pytest.fixture(scope="module")
def upscaler(flux, vae):
    return Upscaler(flux, vae)


@pytest.mark.parametrize(
    "size,scale,expected",
    [((333, 517), 2, (666, 1034)), ((1, 1), 2, (2, 2)), ((20, 200), 1.5, (30, 300)), ((33, 47), 1, (33, 47))],
)
def test_the_size_is_exact(upscaler, size, scale, expected):
    settings = dataclasses.replace(SETTINGS, scale=scale, steps=1, tile=512, overlap=64)
    result, report = upscaler.upscale(picture(*size), settings)
    assert result.shape == (1, 3, *expected)
    assert 0 <= result.min() and result.max() <= 1 and result.isfinite().all()
    assert report["output"] == {"height": expected[0], "width": expected[1]}


@pytest.mark.parametrize("tile_batch", [1, 5])
def test_the_tile_batch_does_not_change_the_picture(upscaler, tile_batch):
    pixels = picture(60, 75, batch=2)
    expected, _ = upscaler.upscale(pixels, SETTINGS)
    result, report = upscaler.upscale(pixels, dataclasses.replace(SETTINGS, tile_batch=tile_batch))
    assert report["tiles"]["batch"] == tile_batch and report["tiles"]["count"] > 5
    assert (result - expected).abs().max() < 1e-5


def test_the_report_tells_the_tiles_that_were_sampled_where_windows_move(upscaler):
    settings = dataclasses.replace(SETTINGS, steps=1, overlap=32, tile_fit="exact", moving=True)
    sampled = []
    handle = upscaler.host.transformer.x_embedder.register_forward_pre_hook(
        lambda module, args: sampled.append(args[0].shape[:2].numel() * upscaler.host.latents.token**2)
    )
    _, report = upscaler.upscale(picture(104, 88), settings)
    handle.remove()
    tiles, canvas = report["tiles"], report["canvas"]
    assert tiles["rows"] * tiles["columns"] == tiles["count"]
    assert tiles["sampled_over_canvas"] == round(sum(sampled) / (canvas["height"] * canvas["width"]), 4)


def test_a_second_run_is_equal_and_another_seed_is_not(upscaler):
    pixels = picture(40, 48)
    first, _ = upscaler.upscale(pixels, SETTINGS)
    second, _ = upscaler.upscale(pixels, SETTINGS)
    other, _ = upscaler.upscale(pixels, dataclasses.replace(SETTINGS, seed=1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_result_keeps_the_colours_of_the_picture_as_far_as_fidelity_says(upscaler):
    pixels = picture(40, 48)
    plain, faithful = (
        upscaler.upscale(pixels, dataclasses.replace(SETTINGS, fidelity=share))[0] for share in (0.0, 1.0)
    )
    assert torch.equal(faithful, back_project(plain, pixels, fidelity=1.0)) and not torch.equal(faithful, plain)


def test_the_input_is_not_written_to_and_the_global_random_state_is_left_alone(upscaler):
    pixels = picture(40, 48)
    copy, state = pixels.clone(), torch.get_rng_state()
    upscaler.upscale(pixels, SETTINGS)
    assert torch.equal(pixels, copy) and torch.equal(torch.get_rng_state(), state)


def test_strength_zero_is_the_vae_alone(upscaler, vae):
    pixels = picture(40, 48)
    result, report = upscaler.upscale(pixels, dataclasses.replace(SETTINGS, denoise=0.0))
    through_vae = vae_path.decode(vae, vae_path.encode(vae, resize(pixels, height=80, width=96)))
    assert report["steps"] == 0
    assert (result - through_vae).abs().max() < 1e-6


def test_the_first_enlargement_may_be_another_s_of_any_size(upscaler, vae):
    pixels, larger = picture(40, 48), picture(160, 192, seed=5)
    settings = dataclasses.replace(SETTINGS, denoise=0.0)
    sampler = JointEuler(upscaler.host, upscaler.text, settings)
    result, _ = upscale(upscaler.host, pixels, settings, sampler=sampler, enlarge=lambda given: larger)
    through_vae = vae_path.decode(vae, vae_path.encode(vae, resize(larger, height=80, width=96)))
    assert (result - through_vae).abs().max() < 1e-6


def test_a_small_strength_stays_close_to_the_vae_alone(upscaler):
    pixels = picture(40, 48)
    still, _ = upscaler.upscale(pixels, dataclasses.replace(SETTINGS, denoise=0.0))
    near, _ = upscaler.upscale(pixels, dataclasses.replace(SETTINGS, denoise=1e-3))
    far, _ = upscaler.upscale(pixels, dataclasses.replace(SETTINGS, denoise=0.8))
    assert (near - still).abs().mean() < 0.1 * (far - still).abs().mean()


def test_seeded_noise_is_comfyuis():
    assert torch.equal(seeded_noise((1, 16, 4, 6), seed=7), torch.randn(1, 16, 4, 6, generator=torch.manual_seed(7)))


def test_the_model_gets_what_diffusers_pipeline_gives_it():
    from diffusers import FluxPipeline

    flux = tiny_flux(guidance=True)
    x = torch.randn(2, 16, 6, 8, generator=torch.Generator().manual_seed(0))
    text = Text(torch.randn(1, 5, 32), torch.randn(1, 16))
    expected = flux(
        hidden_states=FluxPipeline._pack_latents(x, 2, 16, 6, 8),
        encoder_hidden_states=text.context.expand(2, -1, -1),
        pooled_projections=text.pooled.expand(2, -1),
        timestep=torch.tensor([0.4, 0.4]),
        guidance=torch.tensor([3.5, 3.5]),
        img_ids=FluxPipeline._prepare_latent_image_ids(2, 3, 4, torch.device("cpu"), torch.float32),
        txt_ids=torch.zeros(5, 3),
        return_dict=False,
    )[0]
    expected = FluxPipeline._unpack_latents(expected, 48, 64, 8)
    result = flux_velocity(flux, x, torch.tensor([0.4, 0.4]), text=text, call=None)
    assert torch.allclose(result, expected, atol=1e-6)


def test_latents_are_scaled_and_shifted_by_the_vaes_numbers():
    plain, shifted = tiny_vae(), tiny_vae(scaling=0.5, shift=0.25)
    pixels = picture(32, 32)
    latents = vae_path.encode(shifted, pixels)
    assert torch.allclose(latents, (vae_path.encode(plain, pixels) - 0.25) * 0.5, atol=1e-6)
    assert torch.allclose(
        vae_path.decode(shifted, latents), vae_path.decode(plain, vae_path.encode(plain, pixels)), atol=1e-6
    )


def test_the_report_says_what_was_done(upscaler):
    _, report = upscaler.upscale(picture(60, 75), SETTINGS)
    plan = plan_tiles(128, 160, tile=64, overlap=16)
    assert report["input"] == {"height": 60, "width": 75, "batch": 1}
    assert report["canvas"] == {"height": 128, "width": 160}
    assert (report["tiles"]["rows"], report["tiles"]["columns"]) == (len(plan.tops), len(plan.lefts))
    assert report["steps"] == 2 and report["sigmas"] == [0.5, 0.25, 0.0] and report["dino"] is None
    assert set(report["seconds"]) == {"dino", "encode", "sample", "decode", "measure"}
    assert report["settings"] == dataclasses.asdict(dataclasses.replace(SETTINGS, mode="joint"))
    assert report["peak_memory"]["process"] > 50e6


def test_what_the_vae_alone_loses_comes_back(upscaler):
    """At denoise 0 the result is then the enlarged picture; at others the change is FLUX's own; half puts back half."""
    pixels = picture(60, 75)
    larger = resize(pixels, height=120, width=150)

    def run(**changes):
        return upscaler.upscale(pixels, dataclasses.replace(SETTINGS, **changes))[0]

    lossy = run(denoise=0.0)
    assert (lossy - larger).abs().mean() > 0.05
    assert (run(denoise=0.0, vae_detail=1.0) - larger).abs().max() < 1e-5
    assert (run(denoise=0.0, vae_detail=0.5) - (lossy + larger) / 2).abs().max() < 1e-5
    drawn = run(fidelity=0.0)
    wanted = (larger + drawn - lossy).clamp(0, 1)
    assert (run(vae_detail=1.0) - wanted).abs().max() < 1e-5
    assert (run(vae_detail=1.0, fidelity=1.0) - back_project(wanted, pixels, fidelity=1.0)).abs().max() < 1e-5


def test_wrong_pixels_are_refused(upscaler):
    broken = picture(16, 16)
    broken[0, 0, 3, 3] = float("nan")
    for pixels, words in [(broken, "NaN"), (torch.zeros(0, 3, 8, 8), "at least one"), (torch.zeros(1, 4, 8, 8), "3")]:
        with pytest.raises(ValueError, match=words):
            upscaler.upscale(pixels, SETTINGS)


@pytest.mark.parametrize(
    "change,words",
    [
        ({"overlap": 64}, "overlap 64 must be smaller than tile 64"),
        ({"tile": 100}, "tile 100 must be a multiple of 16"),
        ({"scale": 0.05}, "scale 0.05 must be from 0.1 to 16"),
        ({"scale": float("nan")}, "scale nan must be"),
        ({"denoise": 1.5}, "denoise 1.5 must be from 0 to 1"),
        ({"steps": 0}, "steps 0 must be"),
        ({"steps": 2.5}, "steps 2.5 must be a whole number"),
        ({"tile": 64.0}, "tile 64.0 must be a whole number"),
        ({"tile_batch": None}, "tile batch None must be a whole number"),
        ({"cfg": True}, "cfg True must be a number: write it in digits"),
        ({"seed": False}, "seed False must be a whole number"),
        ({"dynamic_shift": "yes"}, "dynamic shift 'yes' must be True or False: write one of them"),
        ({"dynamic_shift": 1}, "dynamic shift 1 must be True or False"),
        ({"tile": 0}, "tile 0 must be from 16 to 4096"),
        ({"tile": -16}, "tile -16 must be from 16 to 4096"),
        ({"dino_strength": 3}, "dino strength 3 must be from 0 to 2"),
        ({"color_match": "lab"}, "color match 'lab' must be one of off, wavelet, adain, adain_tiles"),
        ({"color_match": 1}, "color match 1 must be one of off, wavelet"),
    ],
)
def test_wrong_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SETTINGS, **change)


def test_numpy_s_whole_numbers_are_whole_numbers():
    settings = dataclasses.replace(SETTINGS, seed=np.int64(3), steps=np.int32(2))
    assert settings == dataclasses.replace(SETTINGS, seed=3, steps=2) and type(settings.seed) is int


def test_wrong_models_are_refused(flux):
    with pytest.raises(ValueError, match="4 latent channels, FLUX.1 needs 16"):
        Upscaler(flux, tiny_vae(latent=4))
    with pytest.raises(ValueError, match="takes 384 channels per token"):
        Upscaler(tiny_flux(channels=384), tiny_vae())


def test_variants_bring_their_defaults():
    dev = settings_for("dev", steps=None, tile=None, overlap=None, seed=3)
    assert (dev.steps, dev.tile, dev.overlap, dev.dynamic_shift, dev.seed) == (20, 1024, 128, True, 3)
    demo = settings_for("demo", steps=9, tile=None)
    assert (demo.steps, demo.tile, demo.overlap, demo.dynamic_shift) == (9, 256, 32, False)
    with pytest.raises(ValueError, match="variant 'pro' must be one of demo, schnell, dev"):
        settings_for("pro")


def test_the_cpu_takes_eight_tiles_at_once():
    assert default_tile_batch(torch.device("cpu"), plan_tiles(2048, 2048)) == 8


@pytest.mark.parametrize("way", ["wavelet", "adain", "adain_tiles"])
def test_colours_are_matched_to_the_enlarged_picture_before_fidelity(upscaler, way):
    pixels, settings = picture(60, 75), dataclasses.replace(SETTINGS, steps=1)
    plain, report = upscaler.upscale(pixels, settings)
    plan = plan_tiles(128, 160, tile=64, overlap=16)
    larger = resize(pixels, height=120, width=150)
    expected = match_color(plain, larger, way=way, plan=plan)
    assert (expected - plain).abs().max() > 0.01
    found, report = upscaler.upscale(pixels, dataclasses.replace(settings, color_match=way))
    assert torch.equal(found, expected) and report["settings"]["color_match"] == way
    faithful, _ = upscaler.upscale(pixels, dataclasses.replace(settings, color_match=way, fidelity=1.0))
    assert torch.equal(faithful, back_project(expected, pixels, fidelity=1.0))
