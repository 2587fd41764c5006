"""How nodes save adapters: under a new name in one of ComfyUI's folders, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import folder_paths
from safetensors import SafetensorError

from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.checkpoint import save_adapter


def adapter_path(prefix: str, *, below: Literal["models/model_patches", "output"]) -> Path:
    """A new file name in the first folder of that kind: prefix, counter, suffix; ValueError for one outside it."""
    patches = below == "models/model_patches"
    root = folder_paths.get_folder_paths("model_patches")[0] if patches else folder_paths.get_output_directory()
    name = Path(os.path.normpath(prefix))
    if name.name in ("", "..") or not folder_paths.is_within_directory(root, str(Path(root, name.parent))):
        raise ValueError(f"file name {prefix!r} must lie in {below}: give a name such as adapters/mine")
    try:
        folder, stem, counter, _, _ = folder_paths.get_save_image_path(prefix, root)
    except OSError as error:
        raise ValueError(f"{prefix} cannot be written to {root} ({error.strerror}): choose another name") from error
    return Path(folder) / f"{stem}_{counter:05}_.safetensors"


def write_adapter(adapter: DinoAdapter, path: Path, *, trained: bool | None = None) -> None:
    """ValueError where the disk is full or protected; an older file is then as it was."""
    try:
        save_adapter(adapter, path, trained=trained)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ValueError(f"{path} cannot be written ({reason}): make room or choose another name") from error
