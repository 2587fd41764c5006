"""What decides how a picture comes out, as one fingerprint: whether an earlier result is still what would be made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files.fingerprints import fingerprint
from ..files.identity import model_fingerprint
from ..files.paths import expanded
from ..hosts.diffusers.sources import Source, cached_commit, local_path, model_files
from .api import split_options
from .settings import UpscaleSettings

NAMED = ("model_path", "vae_path", "dino", "adapter", "upscale_model")  # of model_files
FILES = ("decoder", "controlnet", "redux")  # further models
WHERE = ("device", "offload", "attention_slicing", "compile")  # where and how it is computed


def settings_fingerprint(options: dict[str, Any], **more: Any) -> str:
    """Of the options of an upscaling (``dinotile.upscale``): settings, masks and models by what they hold, and of ``more``;
    not of where it is computed. ``kept`` of these: that tiles are kept, as one after the other. ValueError as for
    ``split_options``."""
    settings, models, masks = split_options(options)
    decides = asdict(settings)
    if settings.mode == "sequential" or more.get("kept") or settings.noise == UpscaleSettings.noise:
        del decides["noise"]  # which sequential has by place whatever is asked; jobs without the setting know no other
    plain = {name: value for name, value in models.items() if name not in (*NAMED, *FILES, *WHERE)}
    said = {
        "settings": decides,
        "models": {name: value for name, value in plain.items() if value not in (None, False, "")},
        "files": models_of(models),
        "masks": {name: model_fingerprint(expanded(mask)) for name, mask in masks.items() if mask},
        **more,
    }
    return fingerprint(json.dumps(said, sort_keys=True, default=str).encode())


def models_of(models: Mapping[str, Any]) -> dict[str, str]:
    """A fingerprint of each model that the keywords of ``load_upscaler`` name: of what it holds here, of a hub name the commit
    that this machine has, or nothing before it is downloaded."""
    files = model_files(models.get("variant", "demo"), **{name: models.get(name) for name in NAMED})
    sources: dict[str, Source | None] = {**vars(files), **{name: models.get(name) for name in FILES}}
    if models.get("no_dino"):
        sources |= {"dino": None, "adapter": None}
    return {name: _one(source) for name, source in sources.items() if source}


def _one(source: Source) -> str:
    path: Path | None = local_path(source)
    return cached_commit(str(source)) if path is None else model_fingerprint(path)
