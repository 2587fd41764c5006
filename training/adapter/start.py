"""The adapter that a training begins with: a fresh one, a copy, or with what parameters a file has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...dino.compress.checkpoint import LoadedFlat, load_flat
from ...dino.encode import EncodeSettings
from ...dino.specs import DinoSpec
from ...files.errors import printable, whole
from ...files.paths import expanded
from ...files.weights import Shapes, check_floating, read_shapes, read_weights
from ...flux_patch.adapter import DinoAdapter, LoadedAdapter
from ...flux_patch.adapter_config import YOUNGER, AdapterConfig, adapter_config, spread_sites
from ...flux_patch.checkpoint import FLAT, build_adapter
from ...flux_patch.geometry import FluxGeometry
from ..core.state import AVERAGE
from .config import AdapterSettings
from .task import FILE


def flat_of(settings: AdapterSettings) -> LoadedFlat | None:
    """The FlatDINO whose latents all tiles share, None where none is named; ValueError where it cannot be had."""
    return load_flat(expanded(settings.shared_tokens)) if settings.shared_tokens else None


def config_of(
    settings: AdapterSettings,
    dino: DinoSpec,
    geometry: FluxGeometry,
    *,
    encode: EncodeSettings,
    flat: LoadedFlat | None = None,
) -> AdapterConfig:
    """What an adapter with these settings is made for. encode: how DINO is used, its ``side`` aside. flat: ``flat_of`` them."""
    return adapter_config(
        dino,
        geometry,
        layers=encode.layers,
        crops=encode.crops,
        scales=encode.scales,
        mechanisms=settings.mechanisms,
        sites=_sites(settings, geometry),
        width=settings.width,
        grid=settings.grid,
        context_grid=settings.context_grid,
        positions=settings.positions,
        flat=None if flat is None else flat.config,
    )


def _sites(settings: AdapterSettings, geometry: FluxGeometry) -> tuple[str, ...]:
    """Block numbers as names, or every n-th block."""
    sites: list[str] = []
    for kind, wanted in (("double", settings.double_sites), ("single", settings.single_sites)):
        if isinstance(wanted, tuple):
            sites += [f"{kind}.{number}" for number in wanted]
        else:
            spread = spread_sites(geometry, **({} if wanted is None else {f"{kind}_every": wanted}))
            sites += [site for site in spread if site.startswith(kind)]
    return tuple(sites)


def copied(start: LoadedAdapter) -> LoadedAdapter:
    """The same weights in float32, on the CPU, in torch's own layers, which learn; ValueError where they are no numbers."""
    weights = {name: tensor.cpu().float() for name, tensor in start.module.state_dict().items()}
    _check_finite(weights, name="the adapter")
    return build_adapter(start.config, weights, trained=start.trained)


@dataclass(frozen=True)
class Report:
    """Names of parameters. loaded: taken from the file. new: not in the file, left as they were. unused: only there.
    other: what the file's adapter was made for and this one is not, such as "layers 8, not 12"."""

    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    other: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} parameters loaded"]
        parts += [f"{len(self.new)} new ({_some(self.new)})"] if self.new else []
        parts += [f"{len(self.unused)} of the file unused ({_some(self.unused)})"] if self.unused else []
        parts += [f"made for {thing}" for thing in self.other]
        return ", ".join(parts)


def check_start(adapter: DinoAdapter, path: str | Path) -> None:
    """ValueError where ``warm_start`` would refuse what the header of its file says. adapter: may be without data."""
    path = _file(path)
    _fitting(adapter, *read_shapes(path), name=path.name)


def warm_start(adapter: DinoAdapter, path: str | Path) -> Report:
    """Load every parameter that the file has; nothing is changed where one has another shape or none fits. Of an adapter for
    another FLUX what has another shape is left as it was, and counts as new.

    path: an adapter file, a checkpoint's folder, or a training's output folder. Raises ValueError.
    """
    path = _file(path)
    weights, metadata = read_weights(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    loaded, theirs, flux = _fitting(adapter, shapes, metadata, name=path.name)
    mine: dict[str, Tensor] = dict(adapter.named_parameters())
    taken = {name: weights[name] for name in loaded}
    check_floating(taken, name=path.name)
    _check_finite(taken, name=path.name)
    with torch.no_grad():
        for name, weight in taken.items():
            mine[name].copy_(weight)
    return Report(
        loaded=tuple(loaded),
        new=tuple(name for name in mine if name not in loaded),
        unused=tuple(name for name in weights if name not in mine and not name.startswith(FLAT)),
        other=(
            *_other(theirs, adapter.config),
            *_other_flat(adapter, weights),
            *([] if flux in (None, adapter.config.geometry) else [str(flux)]),
        ),
    )


def _file(path: str | Path) -> Path:
    path = expanded(path)
    if path.is_dir():
        names = (AVERAGE, "ema.safetensors", FILE)  # the second is of older checkpoints
        path = next((path / name for name in names if (path / name).is_file()), path / FILE)
    return path


def _fitting(
    adapter: DinoAdapter, shapes: Shapes, metadata: Mapping[str, str], *, name: str
) -> tuple[list[str], dict[str, Any], FluxGeometry | None]:
    """Names of the parameters that can be loaded from a file of these tensors; what it says of its adapter, and of its FLUX."""
    mine = {key: tuple(parameter.shape) for key, parameter in adapter.named_parameters()}
    loaded = [key for key in mine if key in shapes]
    wrong = [key for key in loaded if shapes[key] != mine[key]]
    with whole(name, "adapter"):
        theirs = dict(json.loads(metadata.get("config") or metadata.get("identity", "{}")))
        flux = _geometry(theirs)
    if flux not in (None, adapter.config.geometry):
        loaded, wrong = [key for key in loaded if key not in wrong], []
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"{name} has {first} {list(shapes[first])}, this adapter has {list(mine[first])}"
            + (f", and {len(wrong) - 1} more differ ({_some(tuple(wrong[1:]))})" if len(wrong) > 1 else "")
            + ": choose the sizes of that file, or another file"
        )
    if not loaded:
        raise ValueError(
            f"{name} holds {_some(tuple(shapes)) or 'nothing'}, no parameter of this adapter: choose an adapter file"
        )
    return loaded, theirs, flux


def _check_finite(weights: Mapping[str, Tensor], *, name: str) -> None:
    wrong = tuple(key for key, weight in weights.items() if not bool(weight.float().isfinite().all()))
    if wrong:
        raise ValueError(f"{name} has weights that are NaN or infinite ({_some(wrong)}): choose another adapter")


def _geometry(theirs: Mapping[str, Any]) -> FluxGeometry | None:
    """Of the FLUX that a file's adapter was made for; None where the file does not say it as this version does."""
    told = theirs.get("geometry")
    if not isinstance(told, dict) or told.keys() - {field.name for field in fields(FluxGeometry)}:
        return None
    return FluxGeometry(**told)


def _other(theirs: Mapping[str, Any], mine: AdapterConfig) -> tuple[str, ...]:
    names = ("dino", "layers", "crops", "scales", "grid", "positions")
    theirs = {**{name: getattr(AdapterConfig, name) for name in YOUNGER}, **theirs} if theirs else {}
    pairs = [(name, theirs.get(name), getattr(mine, name)) for name in names]
    return tuple(f"{name} {printable(old)}, not {new}" for name, old, new in pairs if old not in (None, new))


def _other_flat(adapter: DinoAdapter, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Whether both have shared tokens, and what was learned of the file's was learned of another FlatDINO's latents."""
    theirs = {name: tensor for name, tensor in weights.items() if name.startswith(FLAT)}
    mine = {name: tensor for name, tensor in adapter.named_buffers() if name.startswith(FLAT)}
    if not theirs or not mine:
        return ()
    alike = theirs.keys() == mine.keys() and all(
        torch.equal(mine[name].cpu().float(), theirs[name].float()) for name in mine
    )
    return () if alike else ("another FlatDINO",)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(map(printable, names[:4])) + (" ..." if len(names) > 4 else "")
