"""An upscaler of FLUX.1's architecture that is small enough to count tiles by the hundred on a CPU, and pictures for it."""

from __future__ import annotations

import torch
from torch import Tensor

from dinotile.files.pixels import resize
from dinotile.upscaling.upscaler import Upscaler


def small_upscaler(*, width: int = 1, singles: int = 2, device: str = "cpu") -> Upscaler:
    """Random weights; width: heads of 128 channels. Its VAE is a TAESD with four channels per layer."""
    from diffusers import AutoencoderTiny, FluxTransformer2DModel

    torch.manual_seed(0)
    flux = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=singles,
        attention_head_dim=128,
        num_attention_heads=width,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(16, 56, 56),
    )
    thin = (4, 4, 4, 4)
    vae = AutoencoderTiny(latent_channels=16, encoder_block_out_channels=thin, decoder_block_out_channels=thin)
    for parameter in vae.parameters():
        if parameter.ndim == 4:
            parameter.data.mul_(1.5)  # so that what comes out follows what went in
    return Upscaler(flux.eval().requires_grad_(False), vae.eval().requires_grad_(False), device=device)


def clouds(height: int, width: int, *, seed: int = 0) -> Tensor:
    """[1, 3, height, width] with structure of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(1, 3, height, width)
    for size in (64, 16, 4, 1):
        coarse = torch.rand(1, 3, max(1, -(-height // size)), max(1, -(-width // size)), generator=generator)
        out += resize(coarse, height=height, width=width) / 4
    return out
