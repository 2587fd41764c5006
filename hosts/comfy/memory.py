"""The memory of devices that ComfyUI manages: its own word for its end, and its own ways to free some."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator

import comfy.model_management
from torch import nn

from ..memory import Memory


class ManagedMemory(Memory):
    def ended(self, error: Exception) -> bool:
        return comfy.model_management.is_oom(error) or super().ended(error)

    def free(self) -> None:
        super().free()
        comfy.model_management.soft_empty_cache()


def relief(memory: Memory, needed: Iterable[nn.Module]) -> Iterator[str]:
    """For ``in_less``: all other models out of the device's memory, as the host unloads them. needed: those that stay."""
    host, kept = comfy.model_management, {id(model) for model in needed}
    there = [loaded for loaded in host.current_loaded_models if loaded.device == memory.device and not loaded.is_dead()]
    stay = [loaded for loaded in there if id(loaded.model.model) in kept]
    if len(stay) < len(there):
        host.free_memory(1e30, memory.device, keep_loaded=stay)
        yield "no other model on the device"


def relief_of_run(memory: Memory, guider: weakref.ref) -> Iterator[str]:
    """The same while a guider samples, whose models stay."""
    run = guider()
    patcher = run.model_patcher
    return relief(memory, [each.model for each in (patcher, *patcher.model_patches_models(), *run.loaded_models)])
