"""ComfyUI's folders: where models lie, where adapters go, and where pictures come from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import folder_paths

from ...demo import DEMO
from ...files.errors import printable, reason
from ...files.weights import weight_files

LISTED = "dinotile_folders.txt"  # beside the models: more folders of pictures, one a line
Below = Literal["models/model_patches", "output"]  # where nodes write adapters
KEPT = re.compile(r"[\w-]{1,64}")  # names of folders of finished tiles
# Adapters by prefix since the start, as long as the host remembers what nodes gave.
_written: list[tuple[str, Path]] = []


def register_folders() -> None:
    """Add the folders ``models/dino`` and ``models/flatdino``, and make the demo models visible to the loaders."""
    for name in ("dino", "flatdino"):
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
    for name in ("dino", "flatdino", "diffusion_models", "vae", "model_patches", "upscale_models"):
        if (DEMO / name).is_dir():
            folder_paths.add_model_folder_path(name, str(DEMO / name))


def model_files(*folders: str) -> list[str]:
    """Names of the .safetensors files in the given model folders, with the folders that they are in, such as
    ``dinov2-with-registers-base/model.safetensors``; one that an earlier folder has too, with its own behind it."""
    return sorted(_places(folders))


def _places(folders: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Folder and name of each file, by what it is offered as: name, or, as the host marks pictures, name [folder]."""
    places: dict[str, tuple[str, str]] = {}
    for folder in folders:
        for name in folder_paths.get_filename_list(folder):
            if not name.endswith(".safetensors"):
                continue
            offered = name.replace(os.sep, "/")  # so that a graph names a file alike on every system
            if offered not in places:
                places[offered] = (folder, name)
            elif _real(folder, name) != _real(*places[offered]):
                places[f"{offered} [{folder}]"] = (folder, name)
    return places


def _real(folder: str, name: str) -> str:
    return os.path.realpath(folder_paths.get_full_path(folder, name) or "")


def model_path(name: str, *folders: str) -> str:
    """Full path of a model file by the name that ``model_files`` gives it; ValueError where none of the folders has it."""
    if name in (places := _places(folders)):
        path = folder_paths.get_full_path(*places[name])
        if path:
            return path
    raise ValueError(
        f"there is no model file {name!r} in models/{' or models/'.join(folders)}: put it there and refresh"
    )


def model_state(name: str | None, *folders: str) -> list[tuple[str, int, int]]:
    """Path, size and time of a model's files, which differ when one is replaced; of every model where the name is not known."""
    names = model_files(*folders) if name is None else [name]
    paths = [file for each in names for file in weight_files(Path(model_path(each, *folders)))]
    states = (path.stat() for path in paths)
    return [(str(path), state.st_size, state.st_mtime_ns) for path, state in zip(paths, states, strict=True)]


def adapter_path(prefix: str, *, below: Below) -> Path:
    """A new file name in the first folder of that kind: prefix, counter, suffix; ValueError for one outside it."""
    root = _root(below)
    name = Path(os.path.normpath(prefix))
    within = "\0" not in prefix and Path(root, name.parent).resolve().is_relative_to(Path(root).resolve())
    if name.name in ("", "..") or not within:
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


def adapter_name(path: Path, *, below: Below = "models/model_patches") -> str:
    """Of an adapter that was written there, with its folders: by it the host's loaders know what is in models/model_patches."""
    return path.relative_to(_root(below)).as_posix()


def _root(below: Below) -> str:
    patches = below == "models/model_patches"
    return folder_paths.get_folder_paths("model_patches")[0] if patches else folder_paths.get_output_directory()


def note_written(prefix: str, path: Path) -> None:
    """For ``lost_adapters``: that a node wrote this file."""
    _written.append((prefix, path))


def lost_adapters(prefix: str | None) -> int:
    """How many of the files that nodes wrote with this prefix (None: any) are gone; never falls, also where the name was used
    again."""
    paths = [path for used, path in _written if prefix in (None, used)]
    return len(paths) - sum(path.is_file() for path in set(paths))


def picture_folders() -> list[str]:
    """What nodes offer: folders below ComfyUI's input folder by their names, and those that are listed by their paths."""
    return [*folder_paths.get_input_subfolders(), *(str(root) for root in _listed() if os.path.isdir(root))]


def picture_folder(text: str) -> str:
    """A folder of pictures (or a tar) below ComfyUI's input folder, by its name, or in one of the listed, by its path.

    Nothing outside of those is looked at, whether it exists or not; ValueError.
    """
    name = str(text).strip()
    if not name:
        raise ValueError("the folder is empty text: give the name of a folder of pictures in ComfyUI's input folder")
    roots = [Path(folder_paths.get_input_directory()), *_listed()]
    place = Path(os.path.abspath(roots[0] / name))
    if not any(_inside(place, root) for root in roots):
        raise ValueError(
            f"folder {name[:100]!r} is neither in ComfyUI's input folder nor in one that models/{LISTED} lists: move the "
            "pictures there, or write the folder's full path into a line of that file"
        )
    if not (os.path.isdir(place) or place.suffix == ".tar" and os.path.isfile(place)):
        raise ValueError(
            f"there is no folder {name[:100]!r} in ComfyUI's input folder: choose one that the node offers"
        )
    return str(place)


def _listed() -> Iterator[Path]:
    """The folders of ``LISTED``; a # begins a remark."""
    file = Path(folder_paths.models_dir, LISTED)
    lines = os.fsdecode(file.read_bytes()).removeprefix("\ufeff").splitlines() if file.is_file() else []
    names = [name for name in map(str.strip, lines) if name and not name.startswith("#")]
    return (Path(file.parent, os.path.expanduser(name)) for name in names)


def _inside(place: Path, root: Path) -> bool:
    """By their names first, so that the disk is asked about nothing outside; then by where links lead."""
    try:
        named = place.is_relative_to(os.path.abspath(root))
        return named and Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root))
    except ValueError:  # a name that no file can have
        return False


def training_folder(fingerprint: str) -> Path:
    """Where an unfinished training of exactly these inputs lies."""
    return Path(folder_paths.get_output_directory(), "dinotile", "training", fingerprint)


def kept_tiles(name: str) -> Path:
    """The folder of that name for finished tiles, in ComfyUI's output folder; ValueError for what is no plain name."""
    name = name.strip()
    if not KEPT.fullmatch(name):
        raise ValueError(
            f"keep {printable(name)!r} must be a plain name of letters, digits, - and _, at most 64: it is a folder in ComfyUI's "
            "output folder"
        )
    return Path(folder_paths.get_output_directory(), "dinotile", "tiles", name)
