"""An upscaler of FLUX.1's architecture that is small enough to count tiles by the hundred on a CPU, and pictures for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dinotile.files.pixels import resize

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, FluxTransformer2DModel

    from dinotile.upscaling.upscaler import Upscaler


def small_upscaler(*, width: int = 1, singles: int = 2, device: str = "cpu") -> Upscaler:
    """Random weights; width: heads of 128 channels."""
    from dinotile.upscaling.upscaler import Upscaler

    torch.manual_seed(0)
    flux = small_flux(width=width, singles=singles)
    vae = small_vae(latent_channels=16)
    return Upscaler(flux, vae, device=device)


def small_flux(*, width: int = 1, singles: int = 2, **config: Any) -> FluxTransformer2DModel:
    """With torch's random numbers as they stand. config: more of the model's."""
    from diffusers import FluxTransformer2DModel

    config = {"in_channels": 64, "guidance_embeds": False, **config}
    flux = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=singles,
        attention_head_dim=128,
        num_attention_heads=width,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(16, 56, 56),
        **config,
    )
    return flux.eval().requires_grad_(False)


def small_vae(**config: Any) -> AutoencoderTiny:
    """A TAESD with four channels per layer, louder than torch makes it: what comes out follows what went in."""
    from diffusers import AutoencoderTiny

    thin = (4, 4, 4, 4)
    vae = AutoencoderTiny(encoder_block_out_channels=thin, decoder_block_out_channels=thin, **config)
    for parameter in vae.eval().requires_grad_(False).parameters():
        if parameter.ndim == 4:
            parameter.mul_(1.5)
    return vae


def clouds(height: int, width: int, *, seed: int = 0) -> Tensor:
    """[1, 3, height, width] with structure of all sizes."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(1, 3, height, width)
    for size in (64, 16, 4, 1):
        coarse = torch.rand(1, 3, max(1, -(-height // size)), max(1, -(-width // size)), generator=generator)
        out += resize(coarse, height=height, width=width) / 4
    return out
