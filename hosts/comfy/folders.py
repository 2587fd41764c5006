"""ComfyUI's folders: where models lie, where adapters go, and where pictures come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import folder_paths

from ...demo import DEMO
from ...files.errors import reason


def register_folders() -> None:
    """Add the folder ``models/dino`` and make the demo models visible to the host's own loaders."""
    folder_paths.add_model_folder_path("dino", str(Path(folder_paths.models_dir) / "dino"))
    for name in ("dino", "diffusion_models", "vae", "model_patches"):
        if (DEMO / name).is_dir():
            folder_paths.add_model_folder_path(name, str(DEMO / name))


def model_files(*folders: str) -> list[str]:
    """Names of the .safetensors files in the given model folders."""
    names = (name for folder in folders for name in folder_paths.get_filename_list(folder))
    return sorted({name for name in names if name.endswith(".safetensors")})


def model_path(name: str, *folders: str) -> str:
    """Full path of a model file; ValueError where none of the folders has it."""
    for folder in folders:
        if name in model_files(folder):
            path = folder_paths.get_full_path(folder, name)
            if path:
                return path
    raise ValueError(
        f"there is no model file {name!r} in models/{' or models/'.join(folders)}: put it there and refresh"
    )


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
