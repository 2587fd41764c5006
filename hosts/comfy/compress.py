"""FlatDINOs that ComfyUI loads, moves and frees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management

from ...dino.compress import features as compressing
from ...dino.compress.checkpoint import LoadedFlat, load_flat
from ...dino.compress.features import CompressedFeatures
from ...dino.feature_map import FeatureMap
from .adapter import managed
from .folders import model_path


@dataclass(frozen=True)
class HostFlat:
    """What goes over the FlatDINO socket: the model, and the ModelPatcher by which the host owns it."""

    flat: LoadedFlat
    patcher: Any

    def compress(self, features: FeatureMap) -> CompressedFeatures:
        height, width, channels = features.patches.shape[1:]  # before anything is loaded for it
        self.flat.config.check(dino=features.spec, how=features.how, width=channels, grid=(height, width))
        comfy.model_management.load_models_gpu([self.patcher])
        return compressing.compress(self.flat, features, device=self.patcher.load_device)

    def restore(self, compressed: CompressedFeatures, *, keep: int) -> FeatureMap:
        """keep: tokens that count, 0 for all."""
        compressing.check_maker(self.flat, compressed)
        comfy.model_management.load_models_gpu([self.patcher])
        return compressing.restore(self.flat, compressed, keep=keep or None, device=self.patcher.load_device)


def load_host_flat(name: str) -> HostFlat:
    flat = load_flat(model_path(name, "flatdino"))
    return HostFlat(flat, managed(flat.module))
