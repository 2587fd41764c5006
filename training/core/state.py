"""Checkpoints: a folder per step that appears whole or not at all. Only safetensors and JSON, no pickle."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

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
    partial = folder / f"{place.name}.partial"
    try:
        for left in folder.glob("step-*.partial"):  # of runs that were killed
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        save_adapter(state.adapter, partial / "adapter.safetensors", trained=True)
        save_adapter(state.average, partial / "ema.safetensors", trained=True)
        save_file(state.moments, partial / "optimizer.safetensors")
        about = {name: getattr(state, name) for name in ("step", "scaler", "log", "config")}
        (partial / "state.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(
            f"the checkpoint {place} cannot be written ({_reason(error)}), older ones are as they were: make room and resume"
        ) from error
    if keep is not None:
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return place


def write_adapter(folder: Path, adapter: DinoAdapter) -> Path:
    """Replace ``folder/adapter.safetensors``, the file that users load; ValueError where that fails."""
    try:
        save_adapter(adapter, folder / ADAPTER, trained=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{folder / ADAPTER} cannot be written ({_reason(error)}), the older file is as it was: make room and resume"
        ) from error
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
            moments=load_file(place / "optimizer.safetensors"),
            **about,
        )
        _check_types(state)
        _check_moments(state)
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        reason = _reason(error.__cause__ or error)
        raise ValueError(f"the checkpoint {place} is damaged ({reason}): remove it and resume") from error
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


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
