"""What a model of the host says of its latents: cells, channels, tokens and dimensions. No family is written down here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import Upsample

from ...flux_patch.latents import Latents

COARSEST = 8  # cells of a token where a model says nothing: whole tokens of any that is known to have some
PATCHES = ("patch_size", "patch_spatial", "patch")  # a transformer's own words for it, one number or one per axis


def check_vae(latents: Latents, vae: Any, *, name: str) -> None:
    """ValueError for a VAE of other latents than a model's."""
    other = latents_of_vae(vae)
    if (other.channels, other.cell, other.framed) != (latents.channels, latents.cell, latents.framed):
        raise ValueError(
            f"the {name} has latents of {other}, the model of {latents}: load the model's own VAE, or the small one of its "
            "latents (taef1 for FLUX.1 and Z-Image, taef2 for FLUX.2, lighttaew2_1 for Qwen-Image and Krea 2)"
        )


def latents_of(model: Any) -> Latents:
    """Of a MODEL; ValueError for one that makes no pictures, which cannot be cut into tiles."""
    latent = model.get_model_object("latent_format")
    dimensions = latent.latent_dimensions
    if dimensions == 1 or (dimensions == 2 and latent.latent_rgb_factors is None):
        raise ValueError(
            f"the model's latents are {type(latent).__name__}, sound or solids, tiles need those of pictures: connect a model "
            "that makes pictures"
        )
    patch = patch_of(model.get_model_object("diffusion_model"))
    channels, cell = latent.latent_channels, latent.spacial_downscale_ratio
    return Latents(channels=channels, cell=cell, patch=patch, framed=dimensions == 3)


def latents_of_vae(vae: Any) -> Latents:
    """Of a VAE. The host names the ratio of a small one before its cells are folded, as taef2 folds 2 x 2."""
    cell, tiny = vae.spacial_compression_decode(), getattr(vae.first_stage_model, "taesd_decoder", None)
    if tiny is not None:
        cell *= max(1, math.isqrt(vae.latent_channels // tiny[1].in_channels))
    return Latents(channels=vae.latent_channels, cell=cell, patch=1, framed=vae.latent_dim == 3)


def patch_of(module: Any) -> int:
    """Cells per side of a token, or of what the deepest level of a UNet sees as one."""
    levels = getattr(module, "channel_mult", None)
    if isinstance(levels, Sequence):
        return 2 ** (len(levels) - 1)
    halved = getattr(module, "down_downscalers", None)
    if halved is not None:  # Stable Cascade, whose patches are folded before its levels
        return module.embedding[0].downscale_factor * 2 ** sum(isinstance(part, Upsample) for part in halved.modules())
    for name in PATCHES:
        size = getattr(module, name, None)
        if isinstance(size, int):
            return size
        if isinstance(size, Sequence) and size and isinstance(size[-1], int):
            return max(size[-2:])
    return COARSEST


def check_canvas(latents: Tensor) -> None:
    """ValueError for latents that are not [B, C, h, w] or [B, C, 1, h, w]."""
    if latents.ndim not in (4, 5):
        raise ValueError(
            f"the latent has {latents.ndim} dimensions, tiles need a picture's 4, or 5 with one frame: connect the latent of a "
            "picture"
        )
    if latents.ndim == 5 and latents.shape[2] != 1:
        raise ValueError(
            f"the latent holds {latents.shape[2]} frames of a video, tiles are for one: sample it without tiles, or frame by "
            "frame"
        )


def flat(latents: Tensor) -> Tensor:
    """[B, C, 1, h, w] as [B, C, h, w]; what is so already stays."""
    return latents[:, :, 0] if latents.ndim == 5 else latents


def like(latents: Tensor, other: Tensor) -> Tensor:
    """[B, C, h, w] with as many dimensions as other latents."""
    return latents.unsqueeze(2) if other.ndim == 5 and latents.ndim == 4 else latents


def framed(latents: Tensor, model: Any) -> Tensor:
    """[B, C, h, w] as a MODEL's inner model has them."""
    return latents.unsqueeze(2) if model.latent_format.latent_dimensions == 3 and latents.ndim == 4 else latents
