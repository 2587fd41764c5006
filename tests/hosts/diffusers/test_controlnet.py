"""ControlNets on diffusers; tests/comfyui/test_parity.py holds them against ComfyUI's."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from dinotile.files.pictures import Picture, save_picture
from dinotile.hosts.diffusers.flux import pack, unpack
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.diffusers.load import load_controlnet, load_transformer
from dinotile.hosts.host import Hint, Text
from dinotile.tiling.canvas import cut
from dinotile.upscaling.api import split_options
from dinotile.upscaling.joint import JointEuler, sample, seeded_noise
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ...tiny import picture, tiny_controlnet, tiny_flux, tiny_kl, tiny_vae

SETTINGS = UpscaleSettings(
    tile=64, overlap=16, tile_fit="exact", steps=2, denoise=0.9, controlnet_strength=0.7, tile_batch=2
)
OTHERS = {
    "another width": (
        {"num_attention_heads": 2},
        "the ControlNet is 256 wide, the FLUX model 128: give one of this FLUX",
    ),
    "another text": ({"joint_attention_dim": 16}, "the ControlNet takes 16 wide text, the FLUX model 32"),
    "modes without tiles": ({"num_mode": 1}, "the ControlNet has 1 modes, and no tile mode among them"),
    "hints of pixels": ({"conditioning_embedding_channels": 16}, "reads its hint from pixels"),
}


@pytest.fixture
def flux():
    return tiny_flux()


@torch.no_grad()
def velocity(host, strength=1.0, *, guidance=3.5):
    x, shown = torch.randn(2, 2, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    text = Text.empty(host.geometry, guidance=guidance)
    return host.velocity(x, torch.tensor([0.4, 0.7]), text=text, hint=Hint(shown, strength))


@pytest.mark.parametrize("config", [{}, {"singles": 0}, {"num_mode": 3}, {"guidance_embeds": True}], ids=str)
def test_what_diffusers_own_pipeline_adds_is_added(flux, config):
    controlnet = tiny_controlnet(flux, **config)
    host = DiffusersHost(flux, tiny_vae(), controlnet=controlnet)
    x, shown = torch.randn(2, 2, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    # as in diffusers/pipelines/flux/pipeline_flux_controlnet_image_to_image.py, with the tile mode of the published unions
    ids = torch.tensor([[0.0, row, column] for row in range(2) for column in range(3)])
    said = {
        "timestep": torch.tensor([0.4, 0.7]),
        "encoder_hidden_states": torch.zeros(2, 8, 32),
        "pooled_projections": torch.zeros(2, 16),
        "txt_ids": torch.zeros(8, 3),
        "img_ids": ids,
        "return_dict": False,
    }
    blocks, singles = controlnet(
        hidden_states=pack(x),
        controlnet_cond=pack(shown),
        controlnet_mode=torch.ones(2, 1).long() if "num_mode" in config else None,
        conditioning_scale=0.6,
        guidance=torch.full((2,), 3.5) if "guidance_embeds" in config else None,
        **said,
    )
    wanted = flux(
        hidden_states=pack(x), controlnet_block_samples=blocks, controlnet_single_block_samples=singles, **said
    )[0]
    assert (velocity(host, 0.6) - unpack(wanted, rows=2)).abs().max() < 1e-5
    plain = velocity(DiffusersHost(flux, tiny_vae()))
    assert torch.equal(velocity(host, 0.0), plain) and (velocity(host, 0.6) - plain).abs().max() > 0.01


@pytest.mark.parametrize("place", ["file", "folder", "pipeline folder"])
@pytest.mark.parametrize("config", [{}, {"num_mode": 3, "singles": 0, "guidance_embeds": True}], ids=str)
def test_a_controlnet_loads_from_every_place_alike(flux, tmp_path, place, config):
    controlnet, source = tiny_controlnet(flux, **config), tmp_path
    if place == "file":
        source = tmp_path / "net.safetensors"
        save_file(controlnet.state_dict(), source)
    else:
        controlnet.save_pretrained(tmp_path / ("controlnet" if place == "pipeline folder" else ""))
    found = load_controlnet(source, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    found, own = (velocity(DiffusersHost(flux, tiny_vae(), controlnet=each)) for each in (found.float(), controlnet))
    assert 0 < (found - own).abs().max() < 0.05 * own.abs().max()  # which bfloat16 rounds


@pytest.mark.parametrize("name", OTHERS)
def test_another_controlnet_is_refused(flux, tmp_path, name):
    config, sentence = OTHERS[name]
    controlnet = tiny_controlnet(flux, **config)
    save_file(controlnet.state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=sentence):
        DiffusersHost(flux, tiny_vae(), controlnet=load_controlnet(tmp_path / "net.safetensors"))


def test_what_is_no_controlnet_is_refused(flux, tmp_path):
    state = tiny_controlnet(flux).state_dict()
    del state["transformer_blocks.0.ff.net.2.weight"]
    for name, tensors in {"flux": flux.state_dict(), "part": state}.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        ValueError, match=r"flux.safetensors is no ControlNet of FLUX.1 in diffusers' layout \(it holds "
    ):
        load_controlnet(tmp_path / "flux.safetensors")
    with pytest.raises(ValueError, match="part.safetensors is not a whole ControlNet"):
        load_controlnet(tmp_path / "part.safetensors")
    del state["transformer_blocks.0.attn.norm_q.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(
        ValueError, match=r"^less.safetensors does not hold a whole FLUX.1 ControlNet \(it lacks '[^(]*$"
    ):
        load_controlnet(tmp_path / "less.safetensors")
    tiny_kl().save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match="holds no FluxControlNetModel"):
        load_controlnet(tmp_path / "vae")


@torch.no_grad()
def test_each_tile_is_shown_its_own_part_of_the_enlarged_picture(flux):
    upscaler = Upscaler(flux, tiny_vae(), controlnet=tiny_controlnet(flux))
    host, source = upscaler.host, picture(32, 56, batch=2)  # 64 x 112 px: two tiles
    found, report = upscaler.upscale(source, SETTINGS)
    assert report["tiles"]["count"] == 2 and report["model_memory"]["controlnet"] > 0
    larger = torch.nn.functional.interpolate(source, size=(64, 112), mode="bicubic", antialias=True).clamp(0, 1)
    latents = host.encode(larger)
    plan = host.latents.plan_tiles(64, 112, tile=64, overlap=16, fit="exact").latent

    def velocity(x, sigma, rows):
        hint = Hint(torch.stack([cut(latents[row.image], row.box) for row in rows]), 0.7)
        return host.velocity(x, torch.full((len(x),), sigma), text=upscaler.text, hint=hint)

    noise = seeded_noise(latents.shape, seed=0)
    drawn = sample(velocity, latents, noise=noise, sigmas=report["sigmas"], plan=plan, tile_batch=2)
    assert (found - host.decode(drawn)).abs().max() < 1e-3
    without, _ = upscaler.upscale(source, dataclasses.replace(SETTINGS, controlnet_strength=0.0))
    assert (found - without).abs().max() > 0.05
    assert torch.equal(without, Upscaler(flux, tiny_vae()).upscale(source, SETTINGS)[0])


@torch.no_grad()
def test_a_second_try_is_shown_the_enlarged_picture_too(flux):
    host, seen = DiffusersHost(flux, tiny_vae(), controlnet=tiny_controlnet(flux)), []
    latents, enlarged = torch.randn(2, 1, 16, 8, 14, generator=torch.Generator().manual_seed(0))
    forward = host.controlnet.forward
    host.controlnet.forward = lambda **given: seen.append(given["controlnet_cond"]) or forward(**given)
    sampler = JointEuler(host, Text.empty(host.geometry), dataclasses.replace(SETTINGS, steps=1))
    plan = host.latents.plan_tiles(64, 112, tile=64, overlap=16, fit="exact")
    for shown in (enlarged, latents):
        sampler(latents, plan=plan, guide=None, enlarged=None if shown is latents else shown)
        assert torch.equal(seen.pop(), torch.cat([pack(cut(shown, box)) for box in plan.latent.boxes])) and not seen


@pytest.mark.parametrize("offload", ["model", "sequential"])
@torch.no_grad()
def test_offloading_changes_no_bit_and_both_are_there_together(offload):
    hosts = [
        DiffusersHost(tiny_flux(), tiny_vae(), controlnet=tiny_controlnet(tiny_flux()), offload=each)
        for each in ("none", offload)
    ]
    whole, away = (velocity(host) for host in hosts)
    assert torch.equal(whole, away)
    assert hosts[1].turns.there == (hosts[1].transformer, hosts[1].controlnet)


def test_it_is_an_option_of_the_api_and_of_the_command(models, dinotile, tmp_path):
    save_picture(Picture(picture(32, 56)), tmp_path / "in.png")
    save_file(tiny_controlnet(load_transformer(models[1])).state_dict(), tmp_path / "net.safetensors")
    drawn = {}
    for strength in (0.0, 0.7):
        options = ["--controlnet", tmp_path / "net.safetensors", "--controlnet-strength", strength, "--denoise", 0.9]
        out = tmp_path / f"{strength}.png"
        code, _, err = dinotile("upscale", tmp_path / "in.png", "-o", out, *models, *options)
        assert code == 0, err
        drawn[strength] = out.read_bytes()
    assert drawn[0.0] != drawn[0.7]
    with pytest.raises(ValueError, match="controlnet_strength acts with controlnet only"):
        split_options({"controlnet_strength": 0.5})
    with pytest.raises(ValueError, match="controlnet strength 3 must be from 0 to 2"):
        split_options({"controlnet": "net.safetensors", "controlnet_strength": 3})
