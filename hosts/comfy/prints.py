"""What tells a run from others by content: fingerprints of ComfyUI's models and conditionings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import comfy.controlnet
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ...files.fingerprints import heads_fingerprint

NAMES = {"uuid"}  # by which the host knows a conditioning in one run


def print_of(*things: Any) -> str:
    """16 hex digits for models, VAEs, conditionings, and what they are made of: plain values and tensors by content, models by
    their names, shapes and first numbers; ValueError for what cannot be told from another by content."""
    digest = hashlib.sha256()
    for thing in things:
        _add(digest, thing)
    return digest.hexdigest()[:16]


def _add(digest: Any, thing: Any) -> None:
    digest.update(f"{type(thing).__name__}:".encode())
    if thing is None or isinstance(thing, (bool, int, float, str, torch.dtype)):
        digest.update(repr(thing).encode())
    elif isinstance(thing, Tensor):
        digest.update(repr(tuple(thing.shape)).encode())
        digest.update(thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(thing, Mapping):
        for key in sorted(thing, key=str):
            if key not in NAMES:
                _add(digest, str(key))
                _add(digest, thing[key])
    elif isinstance(thing, (list, tuple, set)):
        for each in thing:
            _add(digest, each)
    elif isinstance(thing, comfy.model_patcher.ModelPatcher):
        _add(digest, _weights(thing))
        _add(digest, thing.patches)
        _add(digest, _said([thing.model_options, thing.object_patches, thing.wrappers]))
    elif isinstance(thing, nn.Module):
        digest.update(heads_fingerprint(thing.state_dict()).encode())
    elif isinstance(thing, comfy.controlnet.ControlBase):
        told = ("cond_hint_original", "strength", "timestep_percent_range", "extra_concat_orig", "previous_controlnet")
        _add(digest, [getattr(thing, name) for name in told])
        _add(digest, getattr(thing, "control_model", None))
    elif hasattr(thing, "patcher"):  # a VAE, or an upscale model
        _add(digest, thing.patcher)
    elif hasattr(thing, "weights") and hasattr(thing, "name"):  # a LoRA's part
        _add(digest, [thing.name, thing.weights])
    elif hasattr(thing, "model") and isinstance(thing.model, nn.Module):
        _add(digest, thing.model)
    else:
        raise ValueError(
            f"finished tiles cannot be kept where a {type(thing).__name__} is part of the work, as one is not told from another: "
            "leave keep empty"
        )


def _weights(patcher: Any) -> str:
    """Of a model as it is without its patches, which may be in it already, or those of another clone."""
    weights = dict(patcher.model.state_dict())
    for key, kept in patcher.backup.items():
        weights[key] = kept.weight
    for name, kept in patcher.object_patches_backup.items():
        weights = {key: value for key, value in weights.items() if not key.startswith(f"{name}.")}
        if isinstance(kept, nn.Module):
            weights |= {f"{name}.{key}": value for key, value in kept.state_dict().items()}
    return heads_fingerprint({key: value for key, value in weights.items() if isinstance(value, Tensor)})


def _said(options: Any) -> Any:
    """Model options and patches: plain values as they are, functions by their names and what they were made with, and other
    objects, which may change while they run, by the names of their kinds."""
    if isinstance(options, Mapping):
        return {str(key): _said(value) for key, value in options.items()}
    if isinstance(options, (list, tuple)):
        return [_said(each) for each in options]
    if options is None or isinstance(options, (bool, int, float, str, Tensor, torch.dtype)):
        return options
    if isinstance(options, nn.Module):
        return [type(options).__qualname__, heads_fingerprint(options.state_dict())]
    if isinstance(options, partial):
        return [_said(options.func), _said(options.args), _said(options.keywords)]
    name = getattr(options, "__qualname__", type(options).__qualname__)
    made = [cell.cell_contents for cell in getattr(options, "__closure__", None) or ()]
    return [name, _said([each for each in made if not callable(each)])]
