"""Pixels to FLUX's latents and back through a diffusers VAE, in strips (``hosts/vae_walk.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ...files.progress import Share
from ...flux_patch.families import FLUX1
from ..finite import Stage, finite
from ..vae_walk import Network, chain, decoder, encoder, local, pointwise, whole
from .taef2 import Taef2

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

FREE = 4 << 30  # bytes that a device is taken to have; CUDA's can be asked


@torch.no_grad()
def encode(vae: AutoencoderKL | AutoencoderTiny | Taef2, pixels: Tensor, told: Share | None = None) -> Tensor:
    """``pixels`` [B,3,H,W] in 0..1 (sides of whole tokens) -> the model's latents [B,C,h,w], float32."""
    if isinstance(vae, Taef2):
        return vae.encode(pixels)
    channels = vae.config["latent_channels"]
    size = tuple(side // FLUX1.cell for side in pixels.shape[-2:])
    raw = pixels.new_empty(len(pixels), channels if _is_tiny(vae) else 2 * channels, *size)
    signed = pointwise(lambda strip: strip.to(vae.dtype) * 2 - 1)
    _run(encoder_network(vae).between([signed]), vae, pixels, raw, size=pixels.shape[-2:], stage="encode", told=told)
    mode = raw[:, :channels]  # the mean; AutoencoderKL's variance comes after it
    if hasattr(vae, "bn"):
        mean, std = statistics(vae, like=mode)
        return (pixel_unshuffle(mode, patch(vae)) - mean) / std
    return (mode - (vae.config["shift_factor"] or 0.0)) * vae.config["scaling_factor"]


@torch.no_grad()
def decode(vae: AutoencoderKL | AutoencoderTiny | Taef2, latents: Tensor, told: Share | None = None) -> Tensor:
    """The model's latents [B,C,h,w] -> pixels [B,3,H,W] in 0..1, float32; ValueError where they are not finite."""
    if isinstance(vae, Taef2):
        return finite(vae.decode(latents), "decode").clamp_(0, 1)
    if hasattr(vae, "bn"):
        mean, std = statistics(vae, like=latents)
        raw = pixel_shuffle(latents * std + mean, patch(vae))
    else:
        raw = latents / vae.config["scaling_factor"] + (vae.config["shift_factor"] or 0.0)
    pixels = raw.new_empty(len(raw), 3, *(side * FLUX1.cell for side in raw.shape[-2:]))
    converted = pointwise(lambda strip: strip.to(vae.dtype))
    _run(decoder_network(vae).between([converted]), vae, raw, pixels, size=pixels.shape[-2:], stage="decode", told=told)
    return finite(pixels.div_(2).add_(0.5), "decode").clamp_(0, 1)  # which would make white of infinity


def statistics(vae: Any, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation [1, C, 1, 1] of each latent channel, which FLUX.2's VAE brings as those of a batch norm."""
    mean, variance = (each.to(like).view(1, -1, 1, 1) for each in (vae.bn.running_mean, vae.bn.running_var))
    return mean, (variance + vae.config["batch_norm_eps"]).sqrt()


def patch(vae: Any) -> int:
    """How many of its own cells FLUX.2's VAE folds into the channels of a latent cell, on each axis."""
    return vae.config["patch_size"][0]


def _run(
    network: Network, vae: Any, canvas: Tensor, out: Tensor, *, size: tuple[int, ...], stage: Stage, told: Share | None
) -> None:
    """size: of the picture, pixels."""
    device = torch.device(vae.device)
    strips, _ = network.plan(size, vae.dtype, device=device, free=free_bytes(device))
    network.run(canvas, out, strips, stage=stage, told=told)


def free_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return FREE
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def _is_tiny(vae: Any) -> bool:
    return not hasattr(vae, "quant_conv")


def encoder_network(vae: Any) -> Network:
    """Pixels in -1..1 to latents, or to their means and variances, as ``vae.encoder`` takes and gives them."""
    half = vae.encoder
    if _is_tiny(vae):
        layers = chain(half.layers, width=max(vae.config["encoder_block_out_channels"]))
        return layers.between([pointwise(lambda strip: strip.add(1).div(2))])
    after = [] if vae.quant_conv is None else [local(vae.quant_conv)]
    if not _is_plain(vae, vae.config["down_block_types"], "DownEncoderBlock2D"):
        return Network([whole(half), *after])
    levels = [(block.resnets, block.downsamplers[0] if block.downsamplers else None) for block in half.down_blocks]
    return encoder(half.conv_in, levels, _middle(half), half.conv_norm_out, half.conv_out).between([], after)


def decoder_network(vae: Any) -> Network:
    """Latents to pixels in -1..1."""
    half = vae.decoder
    if _is_tiny(vae):
        layers = chain(half.layers, width=max(vae.config["decoder_block_out_channels"]))
        squeezed, signed = (lambda strip: torch.tanh(strip / 3) * 3), (lambda strip: strip.mul(2).sub(1))
        return layers.between([pointwise(squeezed)], [pointwise(signed)])
    before = [] if vae.post_quant_conv is None else [local(vae.post_quant_conv)]
    if not _is_plain(vae, vae.config["up_block_types"], "UpDecoderBlock2D"):
        return Network([*before, whole(half)])
    levels = [(block.resnets, block.upsamplers[0] if block.upsamplers else None) for block in half.up_blocks]
    return decoder(half.conv_in, _middle(half), levels, half.conv_norm_out, half.conv_out).between(before)


def _is_plain(vae: Any, kinds: list[str], kind: str) -> bool:
    """Whether it has FLUX's layers and no others, so that its halves may be walked; others run whole."""
    return set(kinds) == {kind} and vae.config["act_fn"] == "silu" and vae.config["mid_block_add_attention"]


def _middle(half: Any) -> tuple[Any, ...]:
    return half.mid_block.resnets[0], half.mid_block.attentions[0], half.mid_block.resnets[1]
