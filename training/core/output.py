"""The folder of a run as it is found, before anything is loaded or written."""

from __future__ import annotations

from pathlib import Path

from ...files.writing import check_folder
from .state import checkpoints

SAMPLES = "samples"  # the folder of sample pictures in it


def check_output(path: Path, *, resume: bool, setting: str = "output.folder") -> Path | None:
    """``earlier`` of the folder of ``path``, a task's file; ValueError also where the folder cannot be written, and where the
    file is of something else. setting: by which the folder is chosen."""
    check_folder(path.parent)
    if path.exists() and not checkpoints(path.parent):
        raise ValueError(f"{path} is there already, and is not of a run that can go on: choose another {setting}")
    return earlier(path.parent, resume=resume)


def earlier(folder: Path, *, resume: bool) -> Path | None:
    """The newest checkpoint, None where nothing has begun; ValueError where it cannot, or may not, be gone on from."""
    whole, others = checkpoints(folder), sorted(folder.glob("step-*"))
    if not whole and others:
        raise ValueError(
            f"{folder} holds {others[-1].name}, no whole checkpoint of this version: remove it, or choose another folder"
        )
    if whole and not resume:
        raise ValueError(
            f"{folder} holds {whole[-1].name} of an earlier run: resume it, remove it, or choose another folder"
        )
    return whole[-1] if whole else None
