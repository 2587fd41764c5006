"""Checks for inside.py: the host's VAEs in strips beside the host's own way."""

from __future__ import annotations

import copy

import comfy.ldm.models.autoencoder
import comfy.sd
import comfy.utils
import torch
from inside_tools import BASE, apart, check, picture
from safetensors.torch import load_file

import nodes as host_nodes
from dinotile.hosts import vae_walk
from dinotile.hosts.comfy import vae as vae_path
from dinotile.hosts.diffusers.taef2 import blank, both_halves

WIDTHS = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch_mult": [1, 2, 4, 4]}
WIDTHS |= {"num_res_blocks": 2, "attn_resolutions": []}


def flux_state() -> dict[str, torch.Tensor]:
    """FLUX.1's VAE with random weights, its decoder a quarter as wide (ComfyUI reads decoders, but not encoders, of other
    widths), and the convolutions on either side of the latents that FLUX.1's does not have."""
    halves = {"ddconfig": WIDTHS | {"ch": 128}, "decoder_ddconfig": WIDTHS | {"ch": 32}, "embed_dim": 16}
    model = comfy.ldm.models.autoencoder.AutoencoderKL(**halves)
    generator, state = torch.Generator().manual_seed(0), {}
    for name, tensor in model.state_dict().items():
        wide = tensor[0].numel() if tensor.ndim > 1 else 25
        state[name] = torch.randn(tensor.shape, generator=generator) * wide**-0.5 + (
            "norm" in name and "weight" in name
        )
    return state


def demo_vae() -> comfy.sd.VAE:
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape and one.dtype == other.dtype
    return float((one - other).abs().max())


@check
def vae_strips():
    """Of two pictures, taller than wide, through small strips."""
    usual, vae_walk.AREA_OF_CACHE = vae_walk.AREA_OF_CACHE, 400
    try:
        state = flux_state()
        plain = {name: tensor for name, tensor in state.items() if "quant" not in name}
        vaes = {"flux": comfy.sd.VAE(sd=plain), "quantising": comfy.sd.VAE(sd=state), "taesd": demo_vae()}
        found = {name: compared(vae) for name, vae in vaes.items()}
        vaes["flux"].first_stage_model.decoder.tanh_out = True
        return {**found, "other": compared(vaes["flux"])}
    finally:
        vae_walk.AREA_OF_CACHE = usual


def compared(vae: comfy.sd.VAE) -> dict:
    pixels = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    latents = vae.encode(pixels.movedim(1, -1))
    decoded = vae.decode(latents).movedim(-1, 1)
    seen, strips = [], copy.copy(vae)
    strips.process_output = lambda image: seen.append(image.shape[-2]) or vae.process_output(image)
    vae_path.decode(strips, latents)
    return {
        "encode": far(vae_path.encode(vae, pixels), latents),
        "decode": far(vae_path.decode(vae, latents), decoded),
        "rows finished at once": max(seen),
        "spread": [float(latents.std()), float(decoded.std())],
        "in strips": None not in (vae_path.encoder_network(vae), vae_path.decoder_network(vae)),
    }


@check
def small_vae_of_flux2():
    """How far the command line's TAEF2 is from the host's, by the same files."""
    halves = {half: BASE / "models" / "vae_approx" / f"taef2_{half}.safetensors" for half in ("encoder", "decoder")}
    ours = blank()
    ours.load_state_dict(both_halves(halves["decoder"], load_file(halves["decoder"]), read=load_file), assign=True)
    (theirs,) = host_nodes.VAELoader().load_vae("taef2")
    pixels = picture(5, height=64, width=96)
    latents = theirs.encode(pixels)
    return {
        "encoded": apart(ours.encode(pixels.movedim(-1, 1)), latents),
        "decoded": apart(ours.decode(latents).clamp(0, 1).movedim(1, -1), theirs.decode(latents)),
    }
