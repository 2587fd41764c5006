"""Where nodes save adapters: under a new name in one of ComfyUI's folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import folder_paths

from ...files.errors import reason


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
        raise ValueError(f"{prefix} cannot be written to {root} ({reason(error)}): choose another name") from error
    return Path(folder) / f"{stem}_{counter:05}_.safetensors"


def temporary_folder() -> Path:
    """ComfyUI's own, which it empties when it starts."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def adapter_name(path: Path) -> str:
    """By which the host's loaders know an adapter that was written below models/model_patches."""
    return path.relative_to(folder_paths.get_folder_paths("model_patches")[0]).as_posix()


def picture_folder(text: str) -> str:
    """A folder of pictures: a full path, or one below ComfyUI's input folder."""
    if not text.strip():
        raise ValueError("the folder is empty text: give a folder of pictures, such as /data/photos or one in input/")
    return str(Path(folder_paths.get_input_directory()) / Path(text.strip()).expanduser())


def training_folder(fingerprint: str) -> Path:
    """Where an unfinished training of exactly these inputs lies."""
    return Path(folder_paths.get_output_directory(), "dinotile", "training", fingerprint)
