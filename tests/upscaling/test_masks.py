import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import dinotile
from dinotile.flux_patch.families import FLUX1
from dinotile.upscaling.masks import Masks, in_cells, load_mask
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import tiny_encoder
from ..tiny import picture, tiny_adapter

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=3, denoise=0.8)


@pytest.fixture
def upscaler(flux, vae):
    return Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), adapter=tiny_adapter(flux))


@pytest.fixture
def command(request):
    """``dinotile``, whose name the package has here."""
    return request.getfixturevalue("dinotile")


def left_half(height, width):
    mask = torch.zeros(1, 1, height, width)
    mask[..., : width // 2] = 1
    return mask


def sampled(upscaler, latents, noise, sigmas, mask, seen):
    """ComfyUI's KSamplerX0Inpaint around an Euler step, from its source, on one tile."""
    x = sigmas[0] * noise + (1 - sigmas[0]) * latents
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        blended = x * mask + (sigma * noise + (1 - sigma) * latents) * (1 - mask)
        seen.append(blended)
        velocity = upscaler.host.velocity(blended, torch.tensor([sigma]), text=upscaler.text)
        clean = (blended - sigma * velocity) * mask + latents * (1 - mask)
        x = x + (following - sigma) * (x - clean) / sigma
    return x


@torch.no_grad()
def test_the_denoise_mask_is_comfyuis_in_each_step(flux, vae):
    from dinotile.upscaling.joint import sample

    upscaler, generator = Upscaler(flux, vae), torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(1, 16, 8, 8, generator=generator) for _ in range(2))
    mask = torch.rand(1, 1, 8, 8, generator=generator)
    mask[..., :2] = 0
    plan, sigmas, seen, expected_seen = (
        FLUX1.plan_tiles(64, 64, tile=64, overlap=0).latent,
        [0.8, 0.5, 0.2, 0.0],
        [],
        [],
    )

    def velocity(x, sigma, rows):
        seen.append(x)
        return upscaler.host.velocity(x, torch.full((len(x),), sigma), text=upscaler.text)

    result = sample(velocity, latents, noise=noise, sigmas=sigmas, plan=plan, denoise_mask=mask)
    assert (result - sampled(upscaler, latents, noise, sigmas, mask, expected_seen)).abs().max() < 1e-5
    assert (torch.cat(seen) - torch.cat(expected_seen)).abs().max() < 1e-5
    assert (result[..., :2] - latents[..., :2]).abs().max() < 1e-5


def test_where_the_denoise_mask_is_black_the_picture_stays_and_where_it_is_white_it_is_redrawn(upscaler):
    pixels = picture(32, 192)
    redrawn, _ = upscaler.upscale(pixels, SETTINGS)
    still, _ = upscaler.upscale(pixels, dataclasses.replace(SETTINGS, denoise=0.0))
    half, _ = upscaler.upscale(pixels, SETTINGS, masks=Masks(denoise=left_half(16, 96)))
    end = slice(192 + 128, None)  # the VAE looks around as far
    assert (half - still)[..., end].abs().max() < 1e-4 < 0.01 < (half - redrawn)[..., end].abs().max()
    assert (half - still)[..., :128].abs().max() > 0.01
    for grey, same in ((0.0, still), (1.0, redrawn)):
        result, _ = upscaler.upscale(pixels, SETTINGS, masks=Masks(denoise=torch.full((1, 1, 1, 6), grey)))
        assert (result - same).abs().max() < 1e-5


def test_where_the_dino_mask_is_black_dino_does_not_act(upscaler):
    pixels, once = picture(64, 96), dataclasses.replace(SETTINGS, steps=1)
    guided, _ = upscaler.upscale(pixels, once)
    plain, _ = upscaler.upscale(pixels, dataclasses.replace(once, dino_strength=0))
    for grey, same in ((0.0, plain), (1.0, guided)):
        result, _ = upscaler.upscale(pixels, once, masks=Masks(dino=torch.full((1, 1, 2, 3), grey)))
        assert (result - same).abs().max() < 1e-5
    half, _ = upscaler.upscale(pixels, once, masks=Masks(dino=left_half(64, 96)))
    near_plain = [(part - other).abs().mean() for part, other in zip(half.chunk(2, 3), plain.chunk(2, 3), strict=True)]
    assert near_plain[0] > 3 * near_plain[1]


def test_a_mask_is_the_mean_of_each_latent_cell_of_the_padded_canvas():
    cells = in_cells(left_half(30, 40), height=60, width=80, latents=FLUX1)
    assert cells.shape == (1, 1, 8, 10)  # 64 x 80 px
    assert cells[0, 0, :, :4].min() > 0.99 and cells[0, 0, :, 6:].max() < 0.01


def test_a_mask_file_is_white_where_it_acts(tmp_path):
    Image.new("L", (4, 2), 255).save(tmp_path / "white.png")
    assert load_mask(tmp_path / "white.png").tolist() == [[[[1.0] * 4] * 2]]
    assert load_mask(Image.new("RGB", (4, 2))).max() == 0
    assert load_mask(Image.new("RGBA", (4, 2), (255, 255, 255, 0))).max() == 0


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (Masks(denoise=torch.ones(1, 1, 10, 10)), "denoise mask is 10 x 10 px, the picture 60 x 40"),
        (Masks(dino=torch.ones(1, 1, 60, 40)), "DINO mask is 40 x 60 px, the picture 60 x 40"),
        (Masks(denoise=torch.full((1, 1, 4, 6), float("nan"))), "denoise mask lies in nan..nan"),
        (Masks(denoise=torch.full((1, 1, 4, 6), 255.0)), "needed is 0..1: divide 8-bit masks by 255"),
        (Masks(dino=torch.ones(2, 1, 4, 6)), "there are 2 DINO masks, needed is one for all pictures"),
        (Masks(denoise=torch.ones(2, 1, 4, 6)), "there are 2 denoise masks and 3 pictures: give one mask for all"),
        (Masks(dino=torch.ones(4, 6)), r"DINO mask has shape \[4, 6\]"),
        (Masks(denoise=torch.ones(4, 6)), r"denoise mask has shape \[4, 6\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_any_work(upscaler, masks, words):
    for mode in ("joint", "sequential"):
        with pytest.raises(ValueError, match=words):
            upscaler.upscale(picture(40, 60, batch=3), dataclasses.replace(SETTINGS, mode=mode), masks=masks)
    assert upscaler.dino.computed == 0


def test_a_dino_mask_without_dino_is_refused(flux, vae):
    with pytest.raises(ValueError, match="a DINO mask was given where DINO does not act"):
        Upscaler(flux, vae).upscale(picture(40, 60), SETTINGS, masks=Masks(dino=torch.ones(1, 1, 4, 6)))


def test_masks_are_options_of_the_api_and_of_the_command(models, command, tmp_path):
    mask = Image.new("L", (30, 20))
    mask.paste(255, (0, 0, 15, 20))
    mask.save(tmp_path / "mask.png")
    Image.new("L", (9, 99)).save(tmp_path / "tall.png")
    Image.fromarray((picture(40, 60)[0].permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path / "in.png")
    options = {"model_path": models[1], "no_dino": True, "tile": 64, "overlap": 16, "steps": 2, "denoise": 0.8}
    drawn = dinotile.upscale(tmp_path / "in.png", **options, denoise_mask=mask)
    arguments = ["upscale", tmp_path / "in.png", *models, "--denoise", 0.8]
    for name in ("mask.png", "tall.png"):
        code, out, err = command(*arguments, "-o", tmp_path / "out.png", "--denoise-mask", tmp_path / name)
        if name == "mask.png":
            assert code == 0
            assert abs(np.asarray(drawn, int) - np.asarray(Image.open(tmp_path / "out.png"), int)).max() <= 1
            (tmp_path / "out.png").unlink()
    assert code == 2 and "the denoise mask is 9 x 99 px, the picture 60 x 40" in err
    code, out, err = command(*arguments, "-o", tmp_path / "out.png", "--dino-mask", tmp_path / "mask.png")
    assert code == 2 and "dino_mask acts with a DINO model, and its adapter or guide above 0 only" in err
    out = ["-o", tmp_path / "mask.png", "--overwrite", "--denoise-mask", tmp_path / "mask.png"]
    assert "mask.png is the input itself" in command(*arguments, *out)[2]
