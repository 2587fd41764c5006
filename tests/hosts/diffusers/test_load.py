"""FLUX and VAEs, from every place and layout that they come in."""

import pytest
import torch

from dinotile.flux_patch.geometry import geometry_of
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.hosts.diffusers.flux import flux_velocity
from dinotile.hosts.diffusers.layouts import flux_config
from dinotile.hosts.diffusers.load import load_transformer, load_vae
from dinotile.hosts.diffusers.sources import dino_path
from dinotile.hosts.host import Text

from ...near import assert_near
from ...tiny import picture, tiny_flux, tiny_kl
from .vaes import original_kl, taesd
from .vaes import taesd_vae as taesd_vae


def velocity(flux):
    x = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    return flux_velocity(flux, x, torch.tensor([0.4]), text=Text.empty(geometry_of(flux)), call=None)


def assert_same_model(loaded, expected):
    """The weights bit for bit; what they compute as far as kernels do not depend on where the weights lie."""
    found, wanted = loaded.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert_near(velocity(loaded), velocity(expected))


@pytest.fixture(params=["pipeline folder", "folder", "file", "all-in-one file"])
def flux_source(request, tmp_path, weights_file, flux):
    if request.param == "pipeline folder":
        flux.save_pretrained(tmp_path / "transformer")
        return tmp_path
    if request.param == "folder":
        flux.save_pretrained(tmp_path)
        return str(tmp_path)
    prefix = "model.diffusion_model." if request.param == "all-in-one file" else ""
    return weights_file({f"{prefix}{name}": tensor for name, tensor in flux.state_dict().items()})


def test_flux_loads_from_every_place_alike(flux, flux_source):
    loaded = load_transformer(flux_source)
    assert_same_model(loaded, flux)
    assert loaded.dtype == torch.float32 and not loaded.training


def test_flux_loads_in_the_asked_dtype(flux, weights_file):
    assert load_transformer(weights_file(flux.state_dict()), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_guidance_is_read_from_the_tensors(weights_file):
    dev = tiny_flux(guidance=True)
    assert_same_model(load_transformer(weights_file(dev.state_dict())), dev)


def test_flux_dev_in_the_original_layout_is_recognised():
    shapes = {
        "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 4096),
        "vector_in.in_layer.weight": (3072, 768),
        "guidance_in.in_layer.weight": (3072, 256),
        "final_layer.linear.weight": (64, 3072),
        "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
    }
    shapes |= {f"double_blocks.{i}.img_mod.lin.bias": (1,) for i in range(19)}
    shapes |= {f"single_blocks.{i}.linear1.bias": (1,) for i in range(38)}
    config = flux_config(shapes, name="flux1-dev.safetensors")
    assert (config["num_layers"], config["num_single_layers"], config["num_attention_heads"]) == (19, 38, 24)
    assert (config["joint_attention_dim"], config["pooled_projection_dim"]) == (4096, 768)
    assert config["guidance_embeds"] is True
    with pytest.raises(ValueError, match="256 wide in the original layout, which diffusers reads at 3072 only"):
        flux_config(shapes | {"img_in.weight": (256, 64)}, name="small.safetensors")


@pytest.mark.parametrize("layout", ["taesd", "taesd with FLUX's numbers", "diffusers"])
def test_a_taesd_file_is_diffusers_tiny_autoencoder(taesd_vae, weights_file, layout):
    weights = taesd_vae.state_dict() if layout == "diffusers" else taesd(taesd_vae)
    if layout.endswith("numbers"):
        weights |= {"vae_scale": torch.tensor(0.3611), "vae_shift": torch.tensor(0.1159)}
    loaded = load_vae(weights_file(weights))
    pixels = picture(32, 48)
    latents = vae_path.encode(taesd_vae, pixels)
    assert (vae_path.encode(loaded, pixels) - latents).abs().max() < 1e-6
    assert (vae_path.decode(loaded, latents) - vae_path.decode(taesd_vae, latents)).abs().max() < 1e-6


def test_a_taesd_with_other_numbers_gives_the_latents_that_comfyui_gives(taesd_vae, weights_file):
    """ComfyUI: latents = (encoder / vae_scale + vae_shift - 0.1159) * 0.3611."""
    path = weights_file(taesd(taesd_vae) | {"vae_scale": torch.tensor(0.5), "vae_shift": torch.tensor(0.2)})
    pixels = picture(32, 48)
    expected = (vae_path.encode(taesd_vae, pixels) / 0.5 + 0.2 - 0.1159) * 0.3611
    assert torch.allclose(vae_path.encode(load_vae(path), pixels), expected, atol=1e-6)


@pytest.mark.parametrize("layout", ["original", "all-in-one", "diffusers", "folder"])
def test_an_autoencoder_kl_loads_from_every_place_alike(tmp_path, weights_file, layout):
    vae = tiny_kl()
    source = tmp_path
    if layout == "folder":
        vae.save_pretrained(tmp_path / "vae")
    elif layout == "diffusers":
        source = weights_file(vae.state_dict())
    else:
        prefix = "vae." if layout == "all-in-one" else ""
        source = weights_file({f"{prefix}{key}": tensor for key, tensor in original_kl(vae).items()})
    loaded = load_vae(source)
    pixels = picture(32, 48)
    assert loaded.config["scaling_factor"] == 0.3611 and loaded.config["shift_factor"] == 0.1159
    assert torch.allclose(vae_path.encode(loaded, pixels), vae_path.encode(vae, pixels), atol=1e-6)
    latents = vae_path.encode(vae, pixels)
    assert torch.allclose(vae_path.decode(loaded, latents), vae_path.decode(vae, latents), atol=1e-6)


def test_the_demo_models_fit_together():
    from dinotile import demo
    from dinotile.hosts.diffusers.flux import check_models

    check_models(load_transformer(demo.FLUX), load_vae(demo.VAE))


def test_a_hub_name_of_a_dino_is_its_model_file(tmp_path, monkeypatch):
    """From the hub's cache, as an earlier run left it."""
    cached = tmp_path / "models--owner--name"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc" / "model.safetensors").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert dino_path("owner/name") == cached / "snapshots" / "abc" / "model.safetensors"
    assert dino_path(tmp_path) == tmp_path
