"""What a ControlNet adds to FLUX's blocks, on diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...flux_patch.families import FLUX1
from ...flux_patch.geometry import image_ids
from ..host import Hint, Text
from .flux import pack

if TYPE_CHECKING:
    from diffusers import FluxControlNetModel, FluxTransformer2DModel

TILE = 1  # of the modes of union ControlNets (InstantX/FLUX.1-dev-Controlnet-Union, Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro)


def control(
    controlnet: FluxControlNetModel, latents: Tensor, sigmas: Tensor, *, text: Text, hint: Hint
) -> dict[str, Any]:
    """For latents [B, C, h, w] at noise levels [B], as keywords of ``FluxTransformer2DModel``. It is told the text alone, without
    what an adapter adds to it, as in ComfyUI."""
    count, device, dtype = len(latents), latents.device, controlnet.dtype
    text = text.to(device, dtype)
    context = text.context.expand(count, -1, -1)
    blocks, single_blocks = controlnet(
        hidden_states=pack(latents).to(dtype),
        controlnet_cond=pack(hint.latents.to(device)).to(dtype),
        controlnet_mode=torch.full((count, 1), TILE, device=device) if controlnet.union else None,
        conditioning_scale=hint.strength,
        timestep=sigmas,
        guidance=torch.full_like(sigmas, text.guidance) if controlnet.config["guidance_embeds"] else None,
        encoder_hidden_states=context,
        pooled_projections=text.pooled.expand(count, -1),
        txt_ids=torch.zeros(context.shape[1], len(FLUX1.axes), device=device),
        img_ids=image_ids(*FLUX1.tokens(*latents.shape[-2:]), family=FLUX1).to(device),
        return_dict=False,
    )
    return {"controlnet_block_samples": blocks, "controlnet_single_block_samples": single_blocks}


def check_controlnet(controlnet: FluxControlNetModel, transformer: FluxTransformer2DModel) -> None:
    """ValueError where it is of another FLUX, or wants another hint than the latents of a picture."""
    for name, said in (
        ("in_channels", "channels per token"),
        ("joint_attention_dim", "wide text"),
        ("pooled_projection_dim", "wide pooled text"),
    ):
        own, theirs = controlnet.config[name], transformer.config[name]
        if own != theirs:
            raise ValueError(f"the ControlNet takes {own} {said}, the FLUX model {theirs}: give one of this FLUX")
    width = transformer.inner_dim
    if controlnet.inner_dim != width:
        raise ValueError(
            f"the ControlNet is {controlnet.inner_dim} wide, the FLUX model {width}: give one of this FLUX"
        )
    if controlnet.union and controlnet.config["num_mode"] <= TILE:
        raise ValueError(
            f"the ControlNet has {controlnet.config['num_mode']} modes, and no tile mode among them: give a tile or upscaling one"
        )
    if controlnet.input_hint_block is not None:
        raise ValueError(
            "the ControlNet reads its hint from pixels, here it is shown latents: give a tile or upscaling ControlNet in "
            "diffusers' layout, such as jasperai/Flux.1-dev-Controlnet-Upscaler"
        )
