"""DINO models that ComfyUI loads, moves and frees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor

from ...dino.encode import DinoEncoder, EncodeSettings
from ...dino.feature_map import FeatureMap
from ...dino.load import load_dino
from ...dino.specs import DinoSpec
from .clip_vision import ClipVisionBackbone, clip_vision_spec
from .folders import model_path
from .images import rgb


class ManagedBackbone:
    """A DINO backbone that the host loads right before it computes; features from the cache load nothing."""

    def __init__(self, backbone: Any, patcher: Any) -> None:
        self.backbone = backbone
        self.patcher = patcher

    @property
    def model(self) -> torch.nn.Module:
        return self.backbone.model

    @property
    def device(self) -> torch.device:
        return self.patcher.load_device

    def hidden(self, pixels: Tensor, blocks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        comfy.model_management.load_models_gpu([self.patcher])
        return self.backbone.hidden(pixels, blocks)


class Held(torch.nn.Module):
    """A module around transformers' model: the host sets ``device`` on what it manages, which that model forbids."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model


@dataclass(frozen=True)
class HostDino:
    encoder: DinoEncoder
    patcher: Any

    def encode(self, image: Tensor, settings: EncodeSettings) -> FeatureMap:
        """Features of an IMAGE [B, H, W, C]."""
        return self.encoder.encode(rgb(image).movedim(-1, 1), settings=settings)


def load_host_dino(name: str) -> HostDino:
    device = comfy.model_management.text_encoder_device()
    fast = comfy.model_management.should_use_fp16(device)  # text_encoder_dtype is for layers that cast as they compute
    dtype = torch.float16 if fast else torch.float32
    encoder = load_dino(model_path(name, "dino", "clip_vision"), dtype=dtype)
    offload = comfy.model_management.text_encoder_offload_device()
    patcher = comfy.model_patcher.CoreModelPatcher(Held(encoder.model), load_device=device, offload_device=offload)
    return _managed(encoder.backbone, encoder.spec, encoder.fingerprint, patcher)


def dino_from_clip_vision(clip_vision: Any) -> HostDino:
    """The host's own DINO model; its ModelPatcher stays the host's."""
    spec = clip_vision_spec(clip_vision.config)
    model = clip_vision.model
    return _managed(ClipVisionBackbone(model, spec), spec, f"clip_vision_{id(model):x}", clip_vision.patcher)


def _managed(backbone: Any, spec: DinoSpec, fingerprint: str, patcher: Any) -> HostDino:
    return HostDino(DinoEncoder(ManagedBackbone(backbone, patcher), spec, fingerprint), patcher)
