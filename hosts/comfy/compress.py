"""FlatDINOs that ComfyUI loads, moves and frees. What computes is imported when one is loaded, as most graphs have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.model_management

from ...dino.feature_map import FeatureMap
from .adapter import managed
from .folders import model_path

if TYPE_CHECKING:
    from ...dino.compress.checkpoint import LoadedFlat
    from ...dino.compress.features import CompressedFeatures


@dataclass(frozen=True)
class HostFlat:
    """What goes over the FlatDINO socket: the model, and the ModelPatcher by which the host owns it."""

    flat: LoadedFlat
    patcher: Any

    def compress(self, features: FeatureMap) -> CompressedFeatures:
        from ...dino.compress.features import compress

        height, width, channels = features.patches.shape[1:]  # before anything is loaded for it
        self.flat.config.check(dino=features.spec, how=features.how, width=channels, grid=(height, width))
        comfy.model_management.load_models_gpu([self.patcher])
        return compress(self.flat, features, device=self.patcher.load_device)

    def restore(self, compressed: CompressedFeatures, *, keep: int) -> FeatureMap:
        """keep: tokens that count, 0 for all."""
        from ...dino.compress.features import check_maker, restore

        check_maker(self.flat, compressed)
        comfy.model_management.load_models_gpu([self.patcher])
        return restore(self.flat, compressed, keep=keep or None, device=self.patcher.load_device)


def load_host_flat(name: str) -> HostFlat:
    from ...dino.compress.checkpoint import load_flat

    flat = load_flat(model_path(name, "flatdino"))
    return HostFlat(flat, managed(flat.module))
