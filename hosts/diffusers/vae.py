"""Pixels to FLUX's latents and back through a diffusers VAE, tile by tile where the picture is large."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...flux_patch.families import FLUX1
from ...tiling.canvas import cut
from ...tiling.plan import TilePlan
from ...tiling.windows import tile_windows, window
from ..finite import finite

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

TILE = 1024
OVERLAP = 256  # wider than FLUX's: a VAE has to see past the seam, not to invent


@torch.no_grad()
def encode(vae: AutoencoderKL | AutoencoderTiny, pixels: Tensor, *, tile: int = TILE) -> Tensor:
    """``pixels`` [B,3,H,W] in 0..1 (sides of whole tokens) -> the model's latents [B,C,h,w], float32."""
    plan = FLUX1.plan_tiles(*pixels.shape[-2:], tile=tile, overlap=OVERLAP * tile // TILE, fit="exact")
    raw = _by_tiles(lambda part: _encode(vae, part), pixels, source=plan, target=plan.latent)
    return (raw - (vae.config["shift_factor"] or 0.0)) * vae.config["scaling_factor"]


@torch.no_grad()
def decode(vae: AutoencoderKL | AutoencoderTiny, latents: Tensor, *, tile: int = TILE) -> Tensor:
    """The model's latents [B,C,h,w] -> pixels [B,3,H,W] in 0..1, float32; ValueError where they are not finite."""
    raw = latents / vae.config["scaling_factor"] + (vae.config["shift_factor"] or 0.0)
    height, width = (side * FLUX1.cell for side in latents.shape[-2:])
    plan = FLUX1.plan_tiles(height, width, tile=tile, overlap=OVERLAP * tile // TILE, fit="exact")
    pixels = _by_tiles(lambda part: _decode(vae, part), raw, source=plan.latent, target=plan)
    return finite(pixels, "decode").clamp(0, 1)  # which would make white of infinity


def _encode(vae: AutoencoderKL | AutoencoderTiny, pixels: Tensor) -> Tensor:
    encoded: Any = vae.encode(pixels.to(vae.device, vae.dtype) * 2 - 1)
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return latents.to(pixels)


def _decode(vae: AutoencoderKL | AutoencoderTiny, latents: Tensor) -> Tensor:
    decoded: Any = vae.decode(latents.to(vae.device, vae.dtype))  # type: ignore[arg-type]
    return decoded.sample.to(latents) / 2 + 0.5


def _by_tiles(convert: Callable[[Tensor], Tensor], canvas: Tensor, *, source: TilePlan, target: TilePlan) -> Tensor:
    """``convert`` every tile of every picture alone and blend the results. diffusers' own VAE tiling is not used:
    AutoencoderTiny's allocates 4 latent channels, and its blending is one-sided."""
    out: Tensor | None = None
    for image in range(canvas.shape[0]):
        for box, place, pair in zip(source.boxes, target.boxes, tile_windows(target), strict=True):
            part = convert(cut(canvas[image], box)[None])[0]  # [C, th, tw]
            if out is None:
                out = part.new_zeros(canvas.shape[0], part.shape[0], target.height, target.width)
            cut(out[image], place).add_(window(pair).to(part) * part)
    if out is None:
        raise ValueError("the batch is empty: give at least one picture")
    return out
