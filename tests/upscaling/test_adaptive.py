import dataclasses

import pytest
import torch

from dinotile import upscale
from dinotile.demo import DINO, SAMPLE
from dinotile.files.pictures import to_image
from dinotile.flux_patch.families import FLUX1
from dinotile.hosts.differential import redrawn
from dinotile.upscaling.adaptive import adaptive_mask
from dinotile.upscaling.api import split_options
from dinotile.upscaling.joint import sample
from dinotile.upscaling.masks import Masks
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..dino.test_detail import quarters
from ..dino.tiny import tiny_encoder
from ..tiny import picture, tiny_adapter

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=3, denoise=0.8)
ADAPTIVE = dataclasses.replace(SETTINGS, adaptive=1.0)
LEVELS = [0.8, 0.6, 0.4, 0.2, 0.0]


@pytest.fixture
def alone(flux, vae):
    return Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), dino_uses=["adaptive"])


@pytest.fixture
def run(flux, vae):
    """Joint sampling of one small canvas by real velocities: ``run(sigmas, mask=..., differential=...)``."""
    upscaler, generator = Upscaler(flux, vae), torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 16, 8, 12, generator=generator) for _ in range(2))

    @torch.no_grad()
    def run(sigmas, *, mask=None, differential=False):
        return sample(
            lambda x, sigma, rows: upscaler.host.velocity(x, torch.full((len(x),), sigma), text=upscaler.text),
            latents,
            noise=noise,
            sigmas=sigmas,
            plan=FLUX1.plan_tiles(64, 96, tile=64, overlap=32).latent,
            denoise_mask=mask,
            differential=differential,
        )

    run.latents = latents
    return run


@pytest.mark.parametrize(("value", "left"), [(1.0, 0), (0.75, 1), (0.7, 2), (0.5, 2), (0.25, 3), (0.1, 4), (0.0, 4)])
def test_a_soft_mask_is_the_run_that_begins_where_the_noise_has_fallen_to_its_share(run, value, left):
    """Of four levels, those at or below its share of the first are run; a mask that blends is no such run."""
    mask = torch.full((1, 1, 8, 12), value)
    expected = run(LEVELS[left:]) if left < 4 else run.latents
    assert (run(LEVELS, mask=mask, differential=True) - expected).abs().max() < 1e-5
    if 0 < value < 1:
        assert (run(LEVELS, mask=mask) - expected).abs().max() > 0.05


def test_a_full_mask_that_was_resized_is_full():
    almost = torch.tensor([1.0, 1 - 6e-8, 0.5])
    assert redrawn(almost, 0.8, start=0.8).tolist() == [1, 1, 0] and redrawn(almost, 0.4, start=0.8).tolist() == [
        1,
        1,
        1,
    ]


def test_adaptive_needs_no_adapter_and_off_is_off(flux, vae, alone):
    pixels = picture(40, 56)
    plain, _ = Upscaler(flux, vae).upscale(pixels, SETTINGS)
    assert torch.equal(alone.upscale(pixels, SETTINGS)[0], plain)
    result, report = alone.upscale(pixels, ADAPTIVE)
    assert (result - plain).abs().max() > 0.01 and report["settings"]["adaptive"] == 1.0 and report["dino"] is None
    assert 0.2 <= report["redrawn"] < 1


def test_flat_ground_is_redrawn_less_than_texture(alone):
    pixels = quarters()
    still, _ = alone.upscale(pixels, dataclasses.replace(SETTINGS, scale=1.0, denoise=0.0))
    change = {}
    for amount in (0.0, 1.0):
        settings = dataclasses.replace(SETTINGS, scale=1.0, adaptive=amount)
        moved = (alone.upscale(pixels, settings)[0] - still).abs().mean(1)[0]
        change[amount] = moved[32:96, 32:96].mean(), moved[160:224, 32:96].mean()  # flat, grain
    assert change[1.0][0] < 0.5 * change[0.0][0]
    assert change[1.0][1] > 0.9 * change[0.0][1]


def test_a_given_mask_and_the_adaptive_one_are_multiplied(alone):
    pixels = picture(40, 56)
    still, _ = alone.upscale(pixels, dataclasses.replace(SETTINGS, denoise=0.0))
    black = Masks(denoise=torch.zeros(1, 1, 5, 7))
    assert (alone.upscale(pixels, ADAPTIVE, masks=black)[0] - still).abs().max() < 1e-5
    white = Masks(denoise=torch.ones(1, 1, 5, 7))
    assert torch.equal(alone.upscale(pixels, ADAPTIVE, masks=white)[0], alone.upscale(pixels, ADAPTIVE)[0])


def test_it_looks_at_what_the_adapter_looks_at_and_encodes_it_once(flux, vae):
    pair = Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), adapter=tiny_adapter(flux))
    _, report = pair.upscale(picture(40, 56), ADAPTIVE)
    assert pair.dino.computed == 1 and report["dino"]["model"] == "tiny-v2"


def test_an_amount_goes_from_all_to_the_mask_of_the_rule(alone):
    pixels = picture(40, 56, batch=2)
    half, whole = (adaptive_mask(alone.host, alone.dino, pixels, amount=amount) for amount in (0.5, 1.0))
    assert whole.shape[:2] == (2, 1) and 0.19 < float(whole.min()) <= float(whole.max()) <= 1
    assert torch.allclose(half, (1 + whole) / 2)


def test_what_adaptive_cannot_do_is_refused(flux, vae):
    with pytest.raises(ValueError, match="adaptive 0.5 asks DINO where there is texture: give a DINO model"):
        Upscaler(flux, vae).upscale(picture(40, 56), dataclasses.replace(SETTINGS, adaptive=0.5))
    for without in ({"no_dino": True}, {"variant": "schnell"}):
        with pytest.raises(ValueError, match="adaptive acts with a DINO model only"):
            split_options({"adaptive": 0.5, **without})
    with pytest.raises(ValueError, match="adaptive 2 must be from 0 to 1"):
        upscale(SAMPLE, adaptive=2)


def test_the_command_line_takes_a_dino_model_alone(models, dinotile, tmp_path):
    photo, flux_alone = tmp_path / "photo.png", [option for option in models if option != "--no-dino"]
    to_image(picture(24, 32)).save(photo)
    common = ("upscale", photo, *flux_alone, "--dino", DINO, "-o")
    code, said, err = dinotile(*common, tmp_path / "out.png", "--adaptive", 1)
    assert code == 0 and "with DINO" in said and (tmp_path / "out.png").exists(), err
    code, _, err = dinotile(*common, tmp_path / "no.png")
    assert code == 2 and "without an adapter: give both or neither, or set guide or adaptive" in err
