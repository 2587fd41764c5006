"""The trained files in demo/: they load, they fit, and on a cat they have never seen they do what they are for."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import interpolate, normalize

from dinotile.demo import ADAPTER, DEMO, DINO, FLAT, FLUX, SAMPLE, UPSCALER, VAE

pytest.importorskip("skimage")

from dinotile.demo.train import world  # noqa: E402
from dinotile.demo.train.flux import WEIGHTS, redraw  # noqa: E402
from dinotile.demo.train.pictures import held_out, psnr, soft_copy  # noqa: E402
from dinotile.demo.train.vae import decode, encode  # noqa: E402
from dinotile.dino.compress.checkpoint import load_flat  # noqa: E402
from dinotile.dino.compress.features import compress, restore, settings_for  # noqa: E402
from dinotile.dino.encode import normalise  # noqa: E402
from dinotile.dino.load import load_dino  # noqa: E402
from dinotile.flux_patch.checkpoint import load_adapter  # noqa: E402
from dinotile.hosts.diffusers.load import load_transformer, load_vae  # noqa: E402
from dinotile.training.flatdino.measure import Tally  # noqa: E402

TILE = (..., slice(16, 272), slice(96, 352))


@pytest.fixture(scope="module")
def vae():
    return load_vae(VAE)


@pytest.fixture(scope="module")
def flux():
    return load_transformer(FLUX)


def test_everything_in_demo_together_stays_below_16_megabytes():
    files = [path for path in DEMO.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 16_000_000


@pytest.mark.parametrize("path", [VAE, DINO, FLUX / WEIGHTS, UPSCALER], ids=["vae", "dino", "flux", "upscaler"])
def test_each_file_says_that_it_is_the_demo_and_how_it_was_trained(path):
    with safe_open(path, "pt") as file:
        about = file.metadata()
        dtypes = {file.get_tensor(key).dtype for key in file.keys() if file.get_tensor(key).ndim}  # noqa: SIM118
    assert (about["format"], about["dinotile"], about["trained_by"]) == ("pt", "demo", "demo/train.py")
    assert int(about["steps"]) > 0
    assert dtypes == {torch.float16}


def test_the_flatdino_is_for_the_demos_dino_and_adapter_and_restores_unseen_pictures():
    flat, encoder, adapter = load_flat(FLAT), load_dino(DINO), load_adapter(ADAPTER)
    assert flat.provenance["dinotile"] == "demo" and flat.statistics is not None
    assert (flat.config.dino, flat.config.how) == (adapter.config.dino, adapter.config.how)
    settings = settings_for(flat.config, encoder.spec)
    rng, tally = np.random.default_rng(2 * 10**6), Tally()
    for _ in range(8):
        pixels = torch.from_numpy(world.scene(rng).source()).movedim(2, 0)[None].float()
        whole = encoder.encode(pixels, settings=settings)
        tally.add(restore(flat, compress(flat, whole)).patches, whole.patches)
    assert tally.numbers()["explained"] > 0.6 and tally.numbers()["cosine"] > 0.87
    assert flat.config.bits / 8 == 512 and whole.patches[0].numel() * 2 == 36864


def test_the_vae_keeps_an_unseen_picture(vae):
    soft = soft_copy(held_out())
    latents = encode(vae, soft)
    assert psnr(decode(vae, latents), soft) >= 30
    assert 0.5 < latents.std() < 1.5 and abs(latents.mean()) < 0.3


@pytest.mark.parametrize("tile", [TILE, (..., slice(0, 256), slice(0, 192))], ids=["256x256", "256x192"])
def test_a_tile_of_an_unseen_picture_is_recognisable_after_redrawing(vae, flux, tile):
    true = held_out()
    soft = soft_copy(true)
    drawn = decode(vae, redraw(flux, encode(vae, soft[tile]), denoise=0.3, steps=4))
    assert psnr(drawn, true[tile]) >= 27.5


def test_redrawing_denoises_better_than_shrinking_each_latent_could(vae, flux):
    """The Wiener estimate of a lone number is the best without its neighbours; the toy FLUX uses them."""
    clean = encode(vae, soft_copy(held_out())[TILE])
    noise = (0.3 / 0.7) ** 2
    lone = (clean.var() * noise / (clean.var() + noise)).sqrt()
    assert (redraw(flux, clean, denoise=0.3) - clean).std() < 0.9 * lone


def test_features_differ_between_regions_and_pictures_and_survive_blur():
    encoder = load_dino(DINO).model
    true = interpolate(held_out(), (224, 336), mode="bicubic", antialias=True).clamp(0, 1)
    cat, soft, other = (_features(encoder, pixels) for pixels in (true, soft_copy(true), 1 - true.flip(2)))
    middle = cat.mean((0, 1))
    unit, soft, other = (normalize(grid - middle, dim=-1) for grid in (cat, soft, other))
    assert torch.linalg.matrix_rank(unit.flatten(0, 1), rtol=0.05) >= 8
    near = (unit[:, 1:] * unit[:, :-1]).sum(-1).mean()
    far = (unit[:, 12:] * unit[:, :-12]).sum(-1).mean()
    assert near > far + 0.2
    assert (unit * soft).sum(-1).mean() > (unit * other).sum(-1).mean() + 0.4


def test_the_sample_picture_is_small_enough_for_a_quick_run():
    from PIL import Image

    with Image.open(SAMPLE) as picture:
        assert picture.size == (384, 256)


def _features(encoder, pixels):
    """[16, 24, 128] of a 224 x 336 picture."""
    return encoder(normalise(pixels)).last_hidden_state[0, 1:].detach().unflatten(0, (16, 24))
