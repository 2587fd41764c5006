"""FLUX.2's small VAE, from files in its maker's layout. tests/comfyui holds it against ComfyUI's."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.diffusers.load import load_vae

from ...comfyui.models import TAEF2, write_taef2
from ...tiny import picture, tiny_flux, tiny_flux2, tiny_vae, tiny_vae2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("vae_approx")
    write_taef2(place)
    return place


def halves(folder):
    return [folder / f"{TAEF2}_{half}.safetensors" for half in ("encoder", "decoder")]


def test_either_half_finds_the_other_and_a_whole_file_is_the_same(folder, tmp_path):
    whole = {
        f"taesd_{half}.{name}": tensor
        for half, path in zip(("encoder", "decoder"), halves(folder), strict=True)
        for name, tensor in load_file(path).items()
    }
    save_file(whole, tmp_path / "taef2.safetensors")
    published = {}  # as on the hub, where the decoder's first layer, which clamps, is not counted
    for name, tensor in whole.items():
        half, index, rest = name.removeprefix("taesd_").split(".", 2)
        published[f"{half}.layers.{int(index) - (half == 'decoder')}.{rest}"] = tensor
    save_file(published, tmp_path / "published.safetensors")
    pixels = picture(32, 48)
    made = [load_vae(path) for path in (*halves(folder), *sorted(tmp_path.iterdir()))]
    latents = made[0].encode(pixels)
    shown = made[0].decode(latents)
    assert latents.shape == (1, 128, 2, 3) and len(made) == 4
    for other in made[1:]:
        assert torch.equal(other.encode(pixels), latents) and torch.equal(other.decode(latents), shown)


def test_it_shows_and_reads_flux_2s_latents_for_guidance(folder):
    decoder = load_vae(halves(folder)[1])
    host = DiffusersHost(tiny_flux2(), tiny_vae2(), decoder=decoder)
    pixels = picture(32, 48)
    latents = host.read(pixels)
    assert latents.shape == host.encode(pixels).shape == (1, 128, 2, 3)
    shown = host.show(latents)
    assert shown.shape == (1, 3, 32, 48) and 0 <= shown.min() < shown.max() <= 1
    assert not torch.equal(shown, host.decode(latents))


def test_of_another_familys_latents_it_is_refused(folder):
    with pytest.raises(ValueError, match="the decoder has 128 latent channels, FLUX.1 needs 16"):
        DiffusersHost(tiny_flux(), tiny_vae(), decoder=load_vae(halves(folder)[0]))
    with pytest.raises(ValueError, match="the decoder has 16 .* FLUX.2 needs 128: use FLUX.2's VAE or taef2"):
        DiffusersHost(tiny_flux2(), tiny_vae2(), decoder=tiny_vae())


def test_a_half_alone_and_a_damaged_one_are_refused(folder, tmp_path):
    encoder, decoder = halves(folder)
    shutil.copy(decoder, tmp_path)
    with pytest.raises(
        ValueError, match=r"taef2_decoder.safetensors is one half .* put taef2_encoder.safetensors there"
    ):
        load_vae(tmp_path / decoder.name)
    weights = load_file(encoder)
    weights.pop("14.weight")
    save_file(weights, tmp_path / encoder.name)
    with pytest.raises(ValueError, match="is not a whole TAEF2 .* choose another file"):
        load_vae(tmp_path / decoder.name)
    save_file(load_file(encoder) | {"other": torch.zeros(1)}, tmp_path / encoder.name)
    with pytest.raises(ValueError, match="holds other, which is no part of a TAEF2"):
        load_vae(tmp_path / encoder.name)
