"""What tells a run from others by content: fingerprints of ComfyUI's models and conditionings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import Any

import comfy.controlnet
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...files.fingerprints import heads_fingerprint
from .said import bytes_of, said_by, unknown, weights_of

NAMES = {"uuid"}  # by which the host knows a conditioning in one run
HINT = ("cond_hint_original", "strength", "strength_type", "timestep_percent_range", "extra_concat_orig", "vae")
HINT += ("extra_hooks", "previous_controlnet")


def print_of(*things: Any) -> str:
    """16 hex digits for models, VAEs, conditionings, and what they are made of: plain values and tensors by content, models by
    their names, shapes and first numbers; ValueError for what cannot be told from another by content."""
    digest = hashlib.sha256()
    for thing in things:
        _add(digest, thing)
    return digest.hexdigest()[:16]


def _add(digest: Any, thing: Any) -> None:
    digest.update(f"{type(thing).__name__}:".encode())
    if thing is None or isinstance(thing, (bool, int, float, str, bytes, torch.dtype, Enum)):
        digest.update(repr(thing).encode())
    elif isinstance(thing, Tensor):
        digest.update(repr(tuple(thing.shape)).encode())
        digest.update(bytes_of(thing))
    elif isinstance(thing, Mapping):
        for key in sorted(thing, key=str):
            if key not in NAMES:
                _add(digest, str(key))
                _add(digest, thing[key])
    elif isinstance(thing, (list, tuple, set)):
        for each in sorted(thing, key=str) if isinstance(thing, set) else thing:
            _add(digest, each)
    elif isinstance(thing, comfy.model_patcher.ModelPatcher):
        _add(digest, weights_of(thing))
        _add(digest, thing.patches)
        _add(digest, said_by(thing))
    elif isinstance(thing, nn.Module):
        digest.update(heads_fingerprint(thing.state_dict()).encode())
    elif isinstance(thing, comfy.controlnet.ControlBase):
        _add(digest, [getattr(thing, name) for name in HINT])
        _add(digest, {name: value for name, value in thing.extra_args.items() if name != "base_model"})  # of a run
        _add(digest, [getattr(thing, name, None) for name in ("control_model", "t2i_model")])
        digest.update(heads_fingerprint(getattr(thing, "control_weights", {})).encode())
    elif hasattr(thing, "patcher"):  # a VAE, or an upscale model
        _add(digest, thing.patcher)
    elif hasattr(thing, "weights") and hasattr(thing, "name"):  # a LoRA's part
        _add(digest, [thing.name, thing.weights])
    elif hasattr(thing, "model") and isinstance(thing.model, nn.Module):
        _add(digest, thing.model)
    else:
        raise unknown(thing)
