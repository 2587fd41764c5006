"""diffusers' FLUX transformers called with latents, as ComfyUI calls its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from ...flux_patch.call import DinoCall
from ...flux_patch.families import FAMILIES, FLUX1, FLUX2, ModelFamily
from ...flux_patch.geometry import geometry_of, image_ids
from ..host import Text

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxTransformer2DModel

    from .taef2 import Taef2


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
    family = FAMILIES[geometry_of(transformer).family]
    count, device, dtype = len(latents), latents.device, transformer.dtype
    rows, columns = family.tokens(*latents.shape[-2:])
    text = text.to(device, dtype).of_length(family.text_length)
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
    if family.pooled_width is not None:
        keywords["pooled_projections"] = pooled
    velocity = transformer(
        hidden_states=pack(latents, patch=family.patch).to(dtype),
        timestep=sigmas,
        guidance=torch.full_like(sigmas, text.guidance) if transformer.config["guidance_embeds"] else None,
        encoder_hidden_states=context,
        txt_ids=text_ids(context.shape[1], family=family).to(device),
        img_ids=image_ids(rows, columns, family=family).to(device),
        return_dict=False,
        **keywords,
        **added,
    )[0]
    return unpack(velocity.float(), rows=rows, patch=family.patch)


def pack(latents: Tensor, *, patch: int = FLUX1.patch) -> Tensor:
    """Latents [B, C, h, w] as tokens [B, N, C * patch^2], row by row."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpack(tokens: Tensor, *, rows: int, patch: int = FLUX1.patch) -> Tensor:
    """The latents of ``rows`` rows of tokens."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=patch, q=patch)


def text_ids(count: int, *, family: ModelFamily) -> Tensor:
    """Positions [count, axes] of the text tokens: all at the origin, in FLUX.2 one after the other on the last axis."""
    ids = torch.zeros(count, len(family.axes))
    if family is FLUX2:
        ids[:, -1] = torch.arange(count)
    return ids


def check_models(
    transformer: FluxTransformer2DModel, vae: AutoencoderKL | AutoencoderTiny, *, name: str = "VAE"
) -> None:
    """Raise ValueError for a model or a pair that this path cannot run. name: what the second is here."""
    family = FAMILIES[geometry_of(transformer).family]
    family.check_channels(transformer.config["in_channels"])
    check_vae(family, vae, name=name)


def check_vae(family: ModelFamily, vae: AutoencoderKL | AutoencoderTiny | Taef2, *, name: str = "VAE") -> None:
    """Raise ValueError where the VAE is of other latents than the family's."""
    latent = latent_channels(vae)
    if latent != family.channels:
        vaes = "FLUX.1's VAE or taef1" if family is FLUX1 else "FLUX.2's VAE or taef2"
        raise ValueError(f"the {name} has {latent} latent channels, {family.title} needs {family.channels}: use {vaes}")


def latent_channels(vae: Any) -> int:
    """As the model has them: FLUX.2's VAE folds cells of its own into them, and says so by its statistics of each."""
    return vae.bn.num_features if hasattr(vae, "bn") else vae.config["latent_channels"]
