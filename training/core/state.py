"""Checkpoints: a folder per step that appears whole or not at all. Only safetensors and JSON, no pickle."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...files.errors import reason
from ...files.weights import read_weights, write_weights
from ...files.writing import make_folder, remove_parts, replacing, write_text
from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.checkpoint import load_adapter, save_adapter

FILES = ("adapter.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json")
ADAPTER = "adapter.safetensors"  # in the output folder: the averaged weights of the last checkpoint


@dataclass(frozen=True, eq=False)
class TrainState:
    """moments: AdamW's, named ``exp_avg.`` and the parameter. log: sums since the last line of the log."""

    step: int
    adapter: DinoAdapter
    average: DinoAdapter
    moments: dict[str, Tensor]
    scaler: dict[str, Any]
    log: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(folder: Path, state: TrainState, *, keep: int | None) -> Path:
    """Write ``folder/step-000500`` and remove all but the ``keep`` newest (None: remove none).

    Raises ValueError where it cannot be written, with everything older as it was.
    """
    place = folder / f"step-{state.step:06d}"
    make_folder(folder)
    remove_parts(folder, "step-*")
    with replacing(place, advice="older ones are as they were, make room and resume") as part:
        part.mkdir()
        save_adapter(state.adapter, part / "adapter.safetensors", trained=True)
        save_adapter(state.average, part / "ema.safetensors", trained=True)
        write_weights(part / "optimizer.safetensors", state.moments)
        about = {name: getattr(state, name) for name in ("step", "scaler", "log", "config")}
        write_text(part / "state.json", json.dumps(about, indent=1) + "\n")
    if keep is not None:
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return place


def write_adapter(folder: Path, adapter: DinoAdapter) -> Path:
    """Replace ``folder/adapter.safetensors``, the file that users load; ValueError where that fails."""
    save_adapter(adapter, folder / ADAPTER, trained=True)
    return folder / ADAPTER


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    whole = [path for path in found if all((path / name).is_file() for name in FILES)]
    return sorted(whole, key=lambda path: int(path.name[5:]))


def read_checkpoint(place: Path) -> TrainState:
    """ValueError, one sentence, for a checkpoint that cannot be read."""
    try:
        about = json.loads((place / "state.json").read_text(encoding="utf-8"))
        state = TrainState(
            adapter=load_adapter(place / "adapter.safetensors"),
            average=load_adapter(place / "ema.safetensors"),
            moments=read_weights(place / "optimizer.safetensors")[0],
            **about,
        )
        _check_types(state)
        _check_moments(state)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"the checkpoint {place} is damaged ({reason(error)}): remove it and resume") from error
    return state


def _check_types(state: TrainState) -> None:
    """Raise ValueError where state.json is not what ``write_checkpoint`` wrote."""
    if type(state.step) is not int or state.step < 0:
        raise ValueError(f"the step in state.json is {state.step!r}")
    for name in ("scaler", "log", "config"):
        if not isinstance(getattr(state, name), dict):
            raise ValueError(f"{name} in state.json is not an object")


def _check_moments(state: TrainState) -> None:
    """Raise ValueError where they are not the adapter's; there are none where the fp16 scaler left every step out."""
    found = {name: tuple(tensor.shape) for name, tensor in state.moments.items()}
    needed = {
        f"{kind}.{name}": () if kind == "step" else tuple(parameter.shape)
        for name, parameter in state.adapter.named_parameters()
        for kind in ("step", "exp_avg", "exp_avg_sq")
    }
    if found and found != needed:
        raise ValueError("optimizer.safetensors is not of this adapter")
