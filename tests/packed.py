"""What the registry's zip holds: files that git tracks, without those of .comfyignore, which is read as git reads its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def packed_files(root: Path) -> list[str]:
    """Relative paths as ``comfy node pack`` takes them; new files that git would take count as tracked. ValueError where
    ``root`` is no git checkout."""
    if not (root / ".git").exists():
        raise ValueError(f"{root} is no git checkout, so nobody can say which files are packed: clone it")
    every = _listed(root, "--cached", "--others", "--exclude-standard")
    ignored = {
        *_listed(root, "--cached", "--ignored", "--exclude-from=.comfyignore"),
        *_listed(root, "--others", "--ignored", "--exclude-from=.comfyignore"),
    }
    return sorted(name for name in every - ignored if (root / name).is_file())


def copy_packed(root: Path, place: Path) -> None:
    """Lay the packed files below ``place``, as an installation from the registry does."""
    for name in packed_files(root):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, place / name)


def _listed(root: Path, *options: str) -> set[str]:
    told = subprocess.run(["git", "ls-files", "-z", *options], cwd=root, capture_output=True, text=True, check=True)
    return set(told.stdout.split("\0")) - {""}
