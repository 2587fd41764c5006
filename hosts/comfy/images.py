"""ComfyUI's IMAGE and MASK: checked on the way in, placed as the host keeps them on the way out."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from torch import Tensor

from ...files.pixels import resize


def rgb(image: Tensor, *, name: str = "image") -> Tensor:
    """An IMAGE [B, H, W, 1..4] as float [B, H, W, 3]; grey is repeated, alpha dropped; ValueError for what is no picture."""
    if image.ndim != 4 or 0 in image.shape:
        raise ValueError(f"{name} has shape {list(image.shape)}: connect at least one picture [B, H, W, C]")
    channels = image.shape[3]
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"{name} has {channels} channels, 1 to 4 are allowed: convert it to RGB")
    _finite(image.float(), name)  # its alpha too
    return (image[..., :1].expand(-1, -1, -1, 3) if channels < 3 else image[..., :3]).float()


def with_alpha(result: Tensor, image: Tensor) -> Tensor:
    """A result [B, 3, H, W] as an IMAGE [B, H, W, 3 or 4]: with the enlarged alpha of the IMAGE that it was made of, if it has
    one, which ``rgb`` has looked at."""
    if image.shape[3] in (2, 4):
        alpha = image[..., -1:].movedim(-1, 1).to(result)
        result = torch.cat([result, resize(alpha, height=result.shape[2], width=result.shape[3])], dim=1)
    return result.movedim(1, -1)


def _finite(values: Tensor, name: str) -> None:
    low, high = values.aminmax()
    if not bool((low > -torch.inf) & (high < torch.inf)):  # NaN fails both
        raise ValueError(f"{name} holds NaN or infinite values: repair the node that made it")


def single_mask(mask: Tensor | None) -> Tensor | None:
    """A MASK [1, H, W] or [H, W] as [H, W] on the CPU, 0 to 1; ValueError for several."""
    if mask is None:
        return None
    if mask.ndim == 3 and len(mask) != 1:
        raise ValueError(f"the mask holds {len(mask)} pictures, one is allowed: pick one mask for the whole batch")
    if not bool(mask.isfinite().all()):
        raise ValueError("the mask holds NaN or infinite values: repair the node that made it")
    return mask.reshape(mask.shape[-2:]).float().clamp(0, 1).cpu()


def masks(mask: Tensor | None) -> Tensor | None:
    """A MASK [B, H, W] or [H, W] as [B, 1, H, W] on the CPU, 0 to 1."""
    return None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:]).float().clamp(0, 1).cpu()


def to_host(image: Tensor) -> Tensor:
    """A result on the device and in the dtype that the host keeps between nodes."""
    return image.to(comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype())


def upscale_with_model(upscale_model: Any, pixels: Tensor) -> Tensor:
    """[B, 3, H, W] enlarged by an UPSCALE_MODEL, on the CPU."""
    (larger,) = ImageUpscaleWithModel.execute(upscale_model, pixels.movedim(1, -1)).args
    return rgb(larger, name="what the upscale model gave").movedim(-1, 1).cpu()
