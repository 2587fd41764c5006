"""FlatDINO files: safetensors with all that must match in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...files.errors import BROKEN, printable, whole
from ...files.fingerprints import weights_fingerprint
from ...files.weights import check_finite, check_floating, read_weights, write_weights
from .config import FlatConfig
from .files import VERSION
from .model import FlatDino
from .statistics import Statistics

FORMAT = "dinotile_flatdino"
MEAN, VARIANCE = "statistics.mean", "statistics.variance"


@dataclass(frozen=True, eq=False)
class LoadedFlat:
    """A FlatDINO whose weights stay. fingerprint: of weights and configuration, 16 hex digits, which latents carry.
    statistics: of latents, where the file has them. provenance: how it was trained."""

    module: FlatDino
    fingerprint: str
    statistics: Statistics | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> FlatConfig:
        return self.module.config


def fingerprint_of(module: FlatDino) -> str:
    head = json.dumps(module.config.values(), sort_keys=True).encode()
    return weights_fingerprint(dict(module.state_dict()), head=head)


def save_flat(
    module: FlatDino,
    path: str | Path,
    *,
    statistics: Statistics | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a FlatDINO whole or not at all; ValueError where that fails."""
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(module.config.values(), sort_keys=True),
        "provenance": json.dumps(dict(provenance or {}), sort_keys=True),
    }
    tensors: dict[str, Tensor] = dict(module.state_dict())
    if statistics is not None:
        metadata["pictures"] = str(statistics.pictures)
        tensors |= {MEAN: statistics.mean, VARIANCE: statistics.variance}
    write_weights(Path(path), tensors, metadata)


def load_flat(path: str | Path, *, device: torch.device | str = "cpu") -> LoadedFlat:
    """Read a FlatDINO file, float32, in evaluation mode; ValueError in one sentence for anything else."""
    path = Path(path)
    tensors, metadata = read_weights(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path.name} is no FlatDINO (its header says {printable(metadata.get('format', 'nothing'))}, not {FORMAT}): "
            "choose a file that `dinotile flatdino train` wrote"
        )
    if metadata.get("version") != VERSION:
        raise _newer(path.name, f"version {printable(metadata.get('version', 'none'))}")
    check_floating(tensors, name=path.name)
    check_finite(tensors, name=path.name)
    with whole(path.name, "FlatDINO"):
        values, provenance = json.loads(metadata["config"]), dict(json.loads(metadata.get("provenance", "{}")))
        known = {each.name for each in fields(FlatConfig)}
        unknown = sorted(values.keys() - known)
    if unknown:
        raise _newer(path.name, ", ".join(map(printable, unknown[:3])))
    statistics = _statistics(tensors, metadata, path.name)
    module = _built(values, tensors, path.name)
    shape = (module.config.tokens, module.config.features)
    if statistics is not None and tuple(statistics.mean.shape) != shape:
        raise ValueError(f"{path.name} has statistics of other latents than {shape[0]} x {shape[1]}: train it again")
    return LoadedFlat(module.to(device), fingerprint_of(module), statistics, provenance)


def _built(values: dict[str, Any], tensors: Mapping[str, Tensor], name: str) -> FlatDino:
    try:
        config = FlatConfig.read(values)
        with torch.device("meta"), torch.inference_mode(False):
            module = FlatDino(config)
    except ValueError as error:
        raise ValueError(f"{name} cannot be used ({printable(str(error), most=300)})") from error
    except BROKEN as error:
        raise ValueError(
            f"{name} has a damaged header ({printable(repr(error))}): download or train it again"
        ) from error
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    odd = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if odd:
        raise ValueError(
            f"{name} does not fit its own header: {', '.join(map(printable, odd[:3]))} missing, unknown or of another shape: "
            "download or train it again"
        )
    with torch.inference_mode(False):
        module.load_state_dict({key: tensor.float().clone() for key, tensor in tensors.items()}, assign=True)
    return module.requires_grad_(False).eval()


def _statistics(tensors: dict[str, Tensor], metadata: Mapping[str, str], name: str) -> Statistics | None:
    """Those in a file, taken out of its tensors."""
    mean, variance = tensors.pop(MEAN, None), tensors.pop(VARIANCE, None)
    if mean is None or variance is None:
        return None
    with whole(name, "FlatDINO"):
        return Statistics(mean.float(), variance.float(), int(metadata["pictures"]))


def _newer(name: str, what: str) -> ValueError:
    return ValueError(f"{name} was made by a newer DINOTile (it has {what}): update this one")
