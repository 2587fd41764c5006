"""Checkpoints: a folder per step that appears whole or not at all. Only safetensors and JSON, no pickle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...files.errors import BROKEN, printable, reason
from ...files.weights import read_weights, write_weights
from ...files.writing import make_folder, remove_parts, replacing, write_text

AVERAGE, ABOUT = "average.safetensors", "state.json"
TENSORS = {"weights": "weights.safetensors", "average": AVERAGE, "memory": "optimizer.safetensors"}
FILES = (*TENSORS.values(), ABOUT)
KINDS = {"identity": dict, "shapes": dict, "step": int, "seconds": float, "scaler": dict, "numbers": dict, "log": dict}


@dataclass(frozen=True, eq=False)
class TrainState:
    """All that the next step depends on. identity: of the task. seconds: that the steps took. memory, numbers: what the
    optimisers remember, ``KIND.PARAMETER``. log: sums since the last line of the log. config: what the run was told.
    precision: in which it computed; empty where it does not say."""

    identity: dict[str, Any]
    step: int
    seconds: float
    weights: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    memory: Mapping[str, Tensor]
    numbers: dict[str, Any]
    scaler: dict[str, Any]
    log: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    precision: str = ""

    @property
    def shapes(self) -> dict[str, dict[str, list[int]]]:
        """Of all tensors: how files of one checkpoint know each other."""
        return {kind: {name: list(t.shape) for name, t in getattr(self, kind).items()} for kind in TENSORS}


def write_checkpoint(folder: Path, state: TrainState, *, keep: int | None) -> Path:
    """Write ``folder/step-000500`` and remove all but the ``keep`` newest (None: remove none).

    Raises ValueError where it cannot be written, with everything older as it was.
    """
    place = folder / f"step-{state.step:06d}"
    make_folder(folder)
    remove_parts(folder, "step-*")
    with replacing(place, advice="older ones are as they were, make room and resume") as part:
        part.mkdir()
        for kind, name in TENSORS.items():
            write_weights(part / name, getattr(state, kind), {"identity": json.dumps(state.identity)})
        about = {name: getattr(state, name) for name in (*KINDS, "config", "precision")}
        write_text(part / ABOUT, json.dumps(about) + "\n")
    if keep is not None:
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return place


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    places = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    whole = [path for path in places if all((path / name).is_file() for name in FILES)]
    return sorted(whole, key=lambda path: int(path.name[5:]))


def read_checkpoint(place: Path) -> TrainState:
    """ValueError, one sentence, for a checkpoint that cannot be read."""
    try:
        about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        for name, kind in KINDS.items():
            if type(about[name]) is not kind:
                raise ValueError(f"{name} in {ABOUT} is {printable(about[name])}")
        shapes = about.pop("shapes")
        tensors: dict[str, Any] = {kind: read_weights(place / name)[0] for kind, name in TENSORS.items()}
        state = TrainState(**about, **tensors)
        if state.shapes != shapes:
            raise ValueError("its files are of different runs")
    except (*BROKEN, OSError) as error:
        raise ValueError(f"the checkpoint {place} is damaged ({reason(error)}): remove it and resume") from error
    return state
