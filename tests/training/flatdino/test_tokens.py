"""What tokens are for, and what lies between them."""

import pytest
import torch
from PIL import Image

from dinotile.dino.compress.checkpoint import save_flat
from dinotile.training.flatdino.between import strip
from dinotile.training.flatdino.tokens import attention_maps, mutual_information, tokens, total_correlation

from ...near import assert_near
from .test_evaluate import CPU, untrained
from .tiny import MAKER, opened, stored


def gaussian(count=20_000, *, rho):
    """Two tokens of two numbers; the first numbers of both are correlated by rho."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, 2, generator=generator)
    x[:, 1, 0] = rho * x[:, 0, 0] + (1 - rho**2) ** 0.5 * x[:, 1, 0]
    return x


def test_correlated_gaussians_share_what_the_formula_says():
    for rho in (0.0, 0.5, 0.9):
        wanted = -0.5 * torch.log(torch.tensor(1 - rho**2))
        assert total_correlation(gaussian(rho=rho)) == pytest.approx(float(wanted), abs=0.01)
        shared = mutual_information(gaussian(rho=rho))
        assert float(shared[0, 1]) == float(shared[1, 0]) == pytest.approx(float(wanted), abs=0.01)
        assert float(shared.diagonal().abs().max()) == 0


def test_too_few_pictures_say_nothing_about_correlation():
    assert total_correlation(torch.randn(4, 2, 2)) is None and mutual_information(torch.randn(3, 2, 2)) is None
    assert total_correlation(torch.zeros(50, 2, 2)) is None


def test_a_token_that_the_decoder_does_not_read_costs_nothing_and_one_that_it_reads_does(tmp_path):
    data, flat = opened(stored(tmp_path, count=20)), untrained(tokens=3)
    with torch.no_grad():
        flat.module.decoder.embed.weight.zero_()
    assert float(tokens(flat, data, device=CPU).lost.abs().max()) < 1e-9
    found = tokens(untrained(tokens=3), data, device=CPU)
    assert float(found.lost.abs().min()) > 1e-6 and found.lost.shape == (3,) and found.pictures == 20


def test_maps_are_shares_over_the_picture(tmp_path):
    data = opened(stored(tmp_path, count=4))
    flat = untrained(tokens=3, encoder_registers=2)
    found = tokens(flat, data, device=CPU)
    assert_near(found.maps.sum((1, 2)), torch.ones(3))
    assert float(found.spread.min()) >= 1 and float(found.spread.max()) <= 16.001
    x = torch.cat([patches[:, 0] for _, patches in data.whole(range(4))])
    keys, turned = attention_maps(flat.module, x), attention_maps(flat.module, x.flip(1))
    assert_near(turned, keys.flip(2))  # a patch is looked at for what it is, wherever it lies
    assert (
        found.picture().shape == (3, 36, 108) and 0 <= float(found.picture().min()) <= float(found.picture().max()) <= 1
    )


def test_a_strip_goes_from_one_picture_to_the_other(tmp_path):
    data, flat = opened(stored(tmp_path, count=2)), untrained()
    first, second = (patches[0] for patches in data.batch([0, 1]))
    row = strip(flat, first, second, steps=3)
    assert row.shape == (3, 64, 7 * 64)
    same = strip(flat, first, first, steps=1)
    assert_near(same[..., 64:128], same[..., 128:192])  # between equal latents nothing changes
    backwards = strip(flat, second, first, steps=3)
    pieces = [piece.flip(2) for piece in row.flip(2).split(64, dim=2)]
    assert torch.allclose(torch.cat(pieces, dim=2), backwards, atol=1e-4)
    with pytest.raises(ValueError, match="steps -1 must be 0 or more"):
        strip(flat, first, second, steps=-1)


def test_the_commands_write_pictures(tmp_path, dinotile):
    stored(tmp_path / "data", count=5)
    save_flat(untrained().module, tmp_path / "flat.safetensors")
    told = ("--features", "dinov2", "--encoder", MAKER, "--device", "cpu")
    flat = tmp_path / "flat.safetensors"
    code, out, err = dinotile("flatdino", "tokens", flat, tmp_path / "data", *told, "-o", tmp_path / "maps.png")
    assert code == 0 and "token   1" in out and "total correlation: needs more pictures" in out, err
    assert Image.open(tmp_path / "maps.png").size == (72, 36)
    code, out, err = dinotile(
        "flatdino", "interpolate", flat, tmp_path / "data", *told, "-o", tmp_path / "s.png", "--second", 3
    )
    assert code == 0 and out.strip() == f"{tmp_path / 's.png'}: 000.png to 003.png", err
    assert Image.open(tmp_path / "s.png").size == (9 * 64, 64)
    code, _, err = dinotile(
        "flatdino", "interpolate", flat, tmp_path / "data", *told, "-o", tmp_path / "t.png", "--second", 9
    )
    assert code == 2 and "sample 9 is not there, the data has 0 to 4" in err and not (tmp_path / "t.png").exists()
