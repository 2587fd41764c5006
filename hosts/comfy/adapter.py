"""Adapters that ComfyUI loads, moves and frees."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch

from ...dino.feature_map import FeatureMap
from ...flux_patch import checkpoint
from ...flux_patch.adapter import LoadedAdapter
from ...flux_patch.adapter_config import AdapterConfig
from ...flux_patch.tokens import DinoTokens
from .folders import model_path

log = logging.getLogger("dinotile")


@dataclass(frozen=True)
class HostAdapter:
    """What goes over ComfyUI's adapter socket: the adapter, and the ModelPatcher by which the host owns it."""

    adapter: LoadedAdapter
    patcher: Any

    def project(self, features: FeatureMap) -> DinoTokens:
        """On the adapter's device; the tokens come back to the CPU."""
        module = self.adapter.module
        module.check_encoder(features.spec, features.how)  # before anything is loaded for it
        comfy.model_management.load_models_gpu([self.patcher])
        return module.project(features.to(self.patcher.load_device)).to("cpu")


def managed(module: torch.nn.Module) -> Any:
    """A ModelPatcher, through which the host puts the module where FLUX is."""
    return comfy.model_patcher.CoreModelPatcher(
        module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def load_host_adapter(name: str) -> HostAdapter:
    adapter = checkpoint.load_adapter(model_path(name, "model_patches"), operations=comfy.ops.manual_cast)
    if not adapter.trained:
        log.warning("%s is an untrained adapter: it changes nothing until it is trained", name)
    return HostAdapter(adapter, managed(adapter.module))


def new_host_adapter(config: AdapterConfig, *, seed: int) -> HostAdapter:
    adapter = checkpoint.new_adapter(config, seed=seed, operations=comfy.ops.manual_cast)
    return HostAdapter(adapter, managed(adapter.module))
