"""diffusers' ``FluxTransformer2DModel`` called with latents, as ComfyUI calls its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from ...flux_patch.call import DinoCall
from ...flux_patch.families import FLUX1
from ...flux_patch.geometry import image_ids
from ..host import Text

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxTransformer2DModel


def flux_velocity(
    transformer: FluxTransformer2DModel,
    latents: Tensor,
    sigmas: Tensor,
    *,
    text: Text,
    call: DinoCall | None,
    added: Mapping[str, Any] = MappingProxyType({}),
) -> Tensor:
    """The velocity [B, C, h, w], float32, of latents with sides of whole tokens at noise levels [B].

    call: its context and vector are added to the text; its attention is the hooks' (``hooks.py``). added: by a ControlNet
    (``controlnet.py``).
    """
    count, device, dtype = len(latents), latents.device, transformer.dtype
    rows, columns = FLUX1.tokens(*latents.shape[-2:])
    text = text.to(device, dtype)
    context, pooled = text.context.expand(count, -1, -1), text.pooled.expand(count, -1)
    biases: list[Tensor] = []
    if call is not None and call.context is not None:
        start = context.shape[1]
        context = torch.cat([context, call.context], dim=1)
        if call.text_weights is not None:
            biases.append(call.text_bias(start=start, length=context.shape[1] + rows * columns, dtype=dtype))
    if call is not None and call.vector is not None:
        pooled = pooled + call.vector
    if text.mask is not None:
        biases.append(text.bias(context.shape[1] + rows * columns, dtype=dtype).expand(count, -1, -1, -1))
    keywords: dict[str, Any] = {"joint_attention_kwargs": {"attention_mask": sum(biases)}} if biases else {}
    velocity = transformer(
        hidden_states=pack(latents).to(dtype),
        timestep=sigmas,
        guidance=torch.full_like(sigmas, text.guidance) if transformer.config["guidance_embeds"] else None,
        encoder_hidden_states=context,
        pooled_projections=pooled,
        txt_ids=torch.zeros(context.shape[1], len(FLUX1.axes), device=device),
        img_ids=image_ids(rows, columns, family=FLUX1).to(device),
        return_dict=False,
        **keywords,
        **added,
    )[0]
    return unpack(velocity.float(), rows=rows)


def pack(latents: Tensor) -> Tensor:
    """Latents [B, C, h, w] as tokens [B, N, C * patch^2], row by row."""
    patch = FLUX1.patch
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpack(tokens: Tensor, *, rows: int) -> Tensor:
    """The latents of ``rows`` rows of tokens."""
    patch = FLUX1.patch
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=patch, q=patch)


def check_models(transformer: FluxTransformer2DModel, vae: AutoencoderKL | AutoencoderTiny) -> None:
    """Raise ValueError for a model or a pair that this path cannot run."""
    channels, latent = transformer.config["in_channels"], vae.config["latent_channels"]
    if channels != FLUX1.token_channels:
        raise ValueError(
            f"the FLUX model takes {channels} channels per token, plain FLUX.1 takes {FLUX1.token_channels}: "
            "use a dev, schnell, Krea or Kontext model (Fill, Canny and Depth models need further inputs)"
        )
    if latent != FLUX1.latent_channels:
        raise ValueError(
            f"the VAE has {latent} latent channels, FLUX.1 needs {FLUX1.latent_channels}: use FLUX.1's VAE or taef1"
        )
