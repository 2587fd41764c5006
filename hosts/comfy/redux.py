"""FLUX.1 Redux as ComfyUI holds it (CLIP_VISION and STYLE_MODEL)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import comfy.model_management
import torch
from einops import rearrange
from torch import Tensor

from ...files.fingerprints import weights_fingerprint
from .adapter import managed
from .dino import Held


class HostTeacher:
    """Gives pictures Redux's tokens by way of the host's own encoder: it resizes, normalises and loads.

    ValueError where the sockets hold other models than SigLIP and Redux, or two that do not fit.
    """

    def __init__(self, clip_vision: Any, style_model: Any) -> None:
        redux = style_model.model
        if not hasattr(redux, "redux_up"):
            raise ValueError(
                f"the style model is a {type(redux).__name__}, needed is FLUX.1 Redux: load flux1-redux-dev.safetensors"
            )
        kind, width = clip_vision.config.get("model_type"), clip_vision.config.get("hidden_size")
        if kind != "siglip_vision_model" or width != redux.redux_up.in_features:
            raise ValueError(
                f"the CLIP Vision model is a {kind} {width} wide, Redux needs SigLIP {redux.redux_up.in_features} wide: "
                "load sigclip_vision_patch14_384.safetensors"
            )
        self.clip_vision, self.style_model = clip_vision, style_model
        self.width, self.side = int(redux.redux_down.out_features), int(clip_vision.image_size)
        self.patcher = managed(Held(redux))

    @cached_property
    def fingerprints(self) -> tuple[str, str]:
        models = self.clip_vision.model, self.style_model.model
        siglip, redux = (weights_fingerprint(model.state_dict()) for model in models)
        return siglip, redux

    @torch.no_grad()
    def tokens(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1, squeezed to a square as Redux does, to tokens [B, grid, grid, width]."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        seen = self.clip_vision.encode_image(pixels.movedim(1, -1), crop=False)
        comfy.model_management.load_models_gpu([self.patcher])
        seen.last_hidden_state = seen.last_hidden_state.to(self.patcher.load_device, torch.float32)
        tokens = self.style_model.get_cond(seen)  # [B, grid^2, width]
        return rearrange(tokens, "b (h w) c -> b h w c", h=math.isqrt(tokens.shape[1]))
