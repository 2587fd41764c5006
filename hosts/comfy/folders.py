"""ComfyUI's model folders."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...demo import DEMO


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
