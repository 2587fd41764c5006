"""DINO models that ComfyUI loads, moves and frees: read from a file, or its own vision models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.ldm.modules.attention import optimized_attention_for_device
from comfy.model_management import cast_to_device
from torch import Tensor

from ...dino.backbone import TransformersBackbone
from ...dino.cache import FeatureCache
from ...dino.encode import DinoEncoder
from ...dino.load import load_dino
from ...dino.specs import SPECS, DinoSpec
from ...files.fingerprints import fingerprint_of, first_numbers
from ..memory import in_less
from .folders import model_path
from .memory import ManagedMemory, relief
from .model import keep_for_backward

FEATURES = FeatureCache()  # of the process: with --cache-none the host makes every encoder anew for each prompt


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
        memory = ManagedMemory(self.device)
        # with autograd it is guidance that looks, while FLUX samples, which stays on the device
        others = iter(()) if torch.is_grad_enabled() else relief(memory, [self.patcher.model])
        return in_less(partial(self._hidden, pixels, blocks), stage="dino", ways=others, memory=memory)

    def _hidden(self, pixels: Tensor, blocks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        comfy.model_management.load_models_gpu([self.patcher])
        if torch.is_grad_enabled():  # for guidance; the host moves weights in inference mode, also between two looks
            keep_for_backward(self.model)
        return self.backbone.hidden(pixels, blocks)


class ClipVisionBackbone(TransformersBackbone):
    """The backbone of a CLIP_VISION that holds DINOv2 L/g or DINOv3 L/H+: the host's blocks on transformers' positions.

    The host's own positions differ off the size that DINOv2 was trained at: it scales them by (n + 0.1) / trained.
    """

    def _run(self, pixels: Tensor) -> Iterator[Tensor]:
        model: Any = self.model
        if self.spec.family == "dinov2":
            patches = model.embeddings.patch_embeddings(pixels)  # [B, h * w, D]
            cls = cast_to_device(model.embeddings.cls_token, patches.device, patches.dtype).expand(len(patches), -1, -1)
            rows, columns = (side // self.spec.patch for side in pixels.shape[2:])
            positions = cast_to_device(model.embeddings.position_embeddings, patches.device, torch.float32)
            tokens = torch.cat([cls, patches], dim=1) + resize_positions(positions, rows, columns).to(patches)
            layers, more = (
                model.encoder.layer,
                {"optimized_attention": optimized_attention_for_device(tokens.device, False, small_input=True)},
            )
        else:
            tokens = model.embeddings(pixels)
            layers, more = model.layer, {"position_embeddings": model.rope_embeddings(pixels)}
        for layer in layers:
            tokens = layer(tokens, **more)
            yield tokens


def resize_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Learned positions [1, 1 + n * n, D] of CLS and a square for a grid of patches, as transformers' DINOv2 resizes them."""
    side = math.isqrt(positions.shape[1] - 1)
    grid = positions[:, 1:].unflatten(1, (side, side)).movedim(3, 1)  # [1, D, n, n]
    grid = torch.nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)  # [1, 1 + rows * columns, D]


class Held(torch.nn.Module):
    """A module around transformers' model: the host sets ``device`` on what it manages, which that model forbids."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model


def load_host_dino(name: str) -> DinoEncoder:
    device = comfy.model_management.text_encoder_device()
    fast = comfy.model_management.should_use_fp16(device)  # text_encoder_dtype is for layers that cast as they compute
    dtype = torch.float16 if fast else torch.float32
    encoder = load_dino(model_path(name, "dino", "clip_vision"), dtype=dtype)
    offload = comfy.model_management.text_encoder_offload_device()
    patcher = comfy.model_patcher.CoreModelPatcher(Held(encoder.model), load_device=device, offload_device=offload)
    return DinoEncoder(ManagedBackbone(encoder.backbone, patcher), encoder.spec, encoder.fingerprint, cache=FEATURES)


def dino_from_clip_vision(clip_vision: Any) -> DinoEncoder:
    """The host's own DINO model; its ModelPatcher stays the host's."""
    spec = clip_vision_spec(clip_vision.config)
    model = clip_vision.model
    backbone = ManagedBackbone(ClipVisionBackbone(model, spec), clip_vision.patcher)
    weights = fingerprint_of(map(first_numbers, model.state_dict().values()))
    return DinoEncoder(backbone, spec, f"clip_vision_{weights}", cache=FEATURES)


def clip_vision_spec(config: dict[str, Any]) -> DinoSpec:
    """The spec of a CLIP_VISION's config; ValueError where it is no DINO model."""
    family, registers = config.get("model_type"), config.get("num_register_tokens", 0)
    found = (family, config.get("hidden_size"), config.get("num_hidden_layers"), registers)
    for spec in SPECS.values():
        if found == (spec.family, spec.width, spec.depth, spec.registers):
            return spec
    raise ValueError(
        f"the CLIP Vision model is of type {family!r} and no DINO model: load a DINOv2 or DINOv3 file in Load CLIP Vision"
    )
