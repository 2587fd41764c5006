"""Pixels to latents and back through ComfyUI's VAE, in strips that leave FLUX where it is (``hosts/vae_walk.py``)."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy.ldm.models.autoencoder import AutoencodingEngine
from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn

from ...files.progress import Share
from ..finite import Stage
from ..vae_walk import Network, chain, decoder, encoder, local, pointwise
from .memory import ManagedMemory


def encode(vae: Any, pixels: Tensor, told: Share | None = None) -> Tensor:
    """``pixels`` [B, 3, H, W] in 0..1, sides multiples of 8 -> [B, C, h, w], as ``vae.encode`` gives it; that is asked where
    the VAE is not FLUX.1's or a TAESD. A VAE of videos is given one picture at a time, and gives [B, C, 1, h, w]."""
    network, model = encoder_network(vae), vae.first_stage_model
    if network is None and vae.latent_dim == 3:
        return torch.cat([vae.encode(picture.movedim(1, -1)) for picture in pixels.split(1)])
    if network is None:
        return vae.encode(pixels.movedim(1, -1))
    ratio, tiny = vae.spacial_compression_encode(), isinstance(model, TAESD)
    size = (side // ratio for side in pixels.shape[-2:])
    out = _empty(vae, len(pixels), vae.latent_channels * (1 if tiny else 2), *size)
    entered = pointwise(lambda strip: vae.process_input(strip).to(vae.vae_dtype))
    _run(network.between([entered]), vae, pixels, out, size=pixels.shape[-2:], stage="encode", told=told)
    return out if tiny else model.regularization(out)[0]


def decode(vae: Any, latents: Tensor, told: Share | None = None) -> Tensor:
    """[B, C, h, w], or [B, C, 1, h, w] where the VAE is one of videos, -> [B, 3, H, W], as ``vae.decode`` gives it."""
    network = decoder_network(vae)
    if network is None:
        shown = vae.decode(latents)
        return (shown[:, 0] if shown.ndim == 5 else shown).movedim(-1, 1)
    size = [side * vae.spacial_compression_decode() for side in latents.shape[-2:]]
    out = _empty(vae, len(latents), vae.output_channels, *size)
    entered = pointwise(lambda strip: strip.to(vae.vae_dtype))
    left = pointwise(lambda strip: vae.process_output(strip.to(out.dtype)))
    _run(network.between([entered], [left]), vae, latents, out, size=size, stage="decode", told=told)
    return out


def _empty(vae: Any, *shape: int) -> Tensor:
    return torch.empty(shape, device=vae.output_device, dtype=vae.vae_output_dtype())


def _run(
    network: Network, vae: Any, canvas: Tensor, out: Tensor, *, size: Any, stage: Stage, told: Share | None
) -> None:
    """size: of the picture, pixels. The host is asked for so much memory that nothing must go for it."""
    host = comfy.model_management
    taken = 1.1 * vae.patcher.model_size() + host.extra_reserved_memory()  # as load_models_gpu counts
    free = int(host.get_free_memory(vae.device) - taken)
    strips, needed = network.plan(size, vae.vae_dtype, device=vae.device, free=free)
    host.load_models_gpu([vae.patcher], memory_required=needed)
    network.run(canvas, out, strips, stage=stage, memory=ManagedMemory(vae.device), told=told)


def encoder_network(vae: Any) -> Network | None:
    model = vae.first_stage_model
    if type(model) is TAESD and _is_chain(model.taesd_encoder):
        scaled = pointwise(lambda strip: strip * 0.5 + 0.5)
        shifted = pointwise(lambda strip: strip / model.vae_scale + model.vae_shift)
        return chain(model.taesd_encoder, width=64).between([scaled], [shifted])
    if not _is_flux1s(model):
        return None
    half, quant = model.encoder, getattr(model, "quant_conv", None)
    levels = [(level.block, getattr(level, "downsample", None)) for level in half.down]
    network = encoder(half.conv_in, levels, _middle(half), half.norm_out, half.conv_out)
    return network.between([], [] if quant is None else [local(quant)])


def decoder_network(vae: Any) -> Network | None:
    model = vae.first_stage_model
    if type(model) is TAESD and _is_chain(model.taesd_decoder):
        shifted = pointwise(lambda strip: (strip - model.vae_shift) * model.vae_scale)
        signed = pointwise(lambda strip: strip.sub(0.5).mul(2))
        return chain(model.taesd_decoder, width=64).between([shifted], [signed])
    if not _is_flux1s(model):
        return None
    half, quant = model.decoder, getattr(model, "post_quant_conv", None)
    levels = [(level.block, getattr(level, "upsample", None)) for level in reversed(half.up)]
    network = decoder(half.conv_in, _middle(half), levels, half.norm_out, half.conv_out)
    return network.between([] if quant is None else [local(quant)])


def _is_chain(half: Any) -> bool:
    """TAESDs of some other models have norms and fold their input."""
    return type(half).forward is nn.Sequential.forward and not any(isinstance(m, nn.GroupNorm) for m in half.modules())


def _is_flux1s(model: Any) -> bool:
    """Whether its layers are those of FLUX.1's VAE, whatever their widths."""
    if not isinstance(model, AutoencodingEngine) or getattr(model, "bn", None) is not None:
        return False
    halves = (model.encoder, model.decoder)
    levels = [*getattr(model.encoder, "down", ()), *getattr(model.decoder, "up", ())]
    return (
        tuple(type(half) for half in halves) == (Encoder, Decoder)
        and all(isinstance(half.conv_in, nn.Conv2d) for half in halves)  # not a video's
        and not model.decoder.tanh_out
        and not any(len(level.attn) for level in levels)
    )


def _middle(half: Any) -> tuple[Any, ...]:
    return half.mid.block_1, half.mid.attn_1, half.mid.block_2
