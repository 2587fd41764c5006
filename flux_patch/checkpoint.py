"""Adapter files: safetensors with everything that must match in the header."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..files.errors import BROKEN, printable, whole
from ..files.fingerprints import weights_fingerprint
from ..files.paths import path_of
from ..files.weights import check_floating, read_weights, write_weights
from .adapter import DinoAdapter, LoadedAdapter
from .adapter_config import MOST_GRID, AdapterConfig
from .families import FAMILIES, FLUX1, MECHANISMS
from .geometry import FluxGeometry

if TYPE_CHECKING:
    from ..dino.compress.checkpoint import LoadedFlat

FORMAT = "dinotile_adapter"
FLAT = "shared.flat."  # before the names of the FlatDINO's own weights
VERSION = "2"  # 1: blocks as two lists of numbers, no family
MOST = {  # of the numbers in a header: far above every DINO and FLUX, and built in no time
    **dict.fromkeys(("dino_width", "width", "context_hidden", "hidden", "heads", "context", "vector"), 2**16),
    **dict.fromkeys(("grid", "context_grid"), MOST_GRID),
    **dict.fromkeys(("double_blocks", "single_blocks"), 2**10),
}
_OUTPUTS = {  # zero where a mechanism has no effect
    "cross_attention": re.compile(r"sites\..*\.v\.weight"),
    "context": re.compile(r"context\..*"),
    "vector": re.compile(r"vector\..*"),
}


def new_adapter(
    config: AdapterConfig, *, seed: int = 0, flat: LoadedFlat | None = None, operations: Any = nn
) -> LoadedAdapter:
    """A fresh adapter that changes nothing: random keys and projections, zero values and outputs. flat: of ``config.flat``."""
    if config.flat != (None if flat is None else flat.config):
        raise ValueError("an adapter with shared tokens is made with the FlatDINO of its configuration: give that one")
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: weight.shape for name, weight in _skeleton(config, operations=nn).state_dict().items()}
    weights = {name: _initial(name, shape, generator) for name, shape in shapes.items() if not name.startswith(FLAT)}
    if flat is not None:
        theirs = {FLAT + name: tensor.float().cpu() for name, tensor in flat.module.state_dict().items()}
        weights |= {name: tensor for name, tensor in theirs.items() if name in shapes}
    return build_adapter(config, weights, trained=False, operations=operations)


def described(module: DinoAdapter, *, trained: bool) -> LoadedAdapter:
    """A module whose weights are as they will stay, with what there is to know of them."""
    weights = dict(module.state_dict())
    head = json.dumps(module.config.values(), sort_keys=True).encode()
    return LoadedAdapter(
        module, weights_fingerprint(weights, head=head), trained, idle_mechanisms(module.config, weights)
    )


def save_adapter(adapter: LoadedAdapter | DinoAdapter, path: str | Path, *, trained: bool | None = None) -> None:
    """Write an adapter whole or not at all; ValueError where that fails. trained: None for what is known of a loaded one."""
    path = path_of(path, what="the output", do="give that of a .safetensors file")
    if isinstance(adapter, LoadedAdapter):
        adapter, trained = adapter.module, adapter.trained if trained is None else trained
    module = adapter
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(module.config.values(), sort_keys=True),
        "trained": json.dumps(bool(trained)),
    }
    write_weights(path, module.state_dict(), metadata)


def load_adapter(path: str | Path, *, operations: Any = nn) -> LoadedAdapter:
    """Read an adapter file of version 1 or 2; ValueError in one sentence for anything else."""
    path = path_of(path, what="the adapter", do="give that of a .safetensors file")
    weights, metadata = read_weights(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path.name} is no DINOTile adapter (its header says {metadata.get('format', 'nothing')!r}, not {FORMAT!r}): "
            f"choose a file that DINOTile saved or trained"
        )
    if metadata.get("version") not in ("1", VERSION):
        raise _newer(path.name, f"adapter version {metadata.get('version')}")
    with whole(path.name, "DINOTile adapter"):
        values, trained = json.loads(metadata["config"]), bool(json.loads(metadata["trained"]))
        _check_sizes(values, most_sites=len(weights))
    try:
        config = config_from(values, name=path.name)
        _check_weights(config, weights, path.name)
    except ValueError as error:
        said = printable(str(error), most=380)  # it may name what the file says
        known = path.name in said
        raise ValueError(said if known else f"{path.name} cannot be used ({said}): choose another adapter") from error
    except BROKEN as error:
        raise ValueError(
            f"{path.name} has a damaged header ({printable(repr(error))}): download or save it again"
        ) from error
    return build_adapter(config, weights, trained=trained, operations=operations)


def config_from(values: Mapping[str, Any], *, name: str) -> AdapterConfig:
    """The configuration in the header of file ``name``, of any version; ValueError for keys that this version does not know."""
    values = dict(values)
    if "sites" not in values:  # version 1
        sites = ((kind, values.pop(f"{kind}_sites")) for kind in ("double", "single"))
        values["sites"] = [f"{kind}.{number}" for kind, numbers in sites for number in numbers]
    known, flat = [(AdapterConfig, values), (FluxGeometry, values["geometry"])], values.get("flat")
    if flat is not None:
        from ..dino.compress.config import FlatConfig

        known.append((FlatConfig, flat))
    unknown = [key for kind, given in known for key in sorted(given.keys() - {field.name for field in fields(kind)})]
    unknown += [f"mechanism {each}" for each in values["mechanisms"] if each not in MECHANISMS]
    family = values["geometry"].get("family", FLUX1.name)
    if unknown := unknown + ([] if family in FAMILIES else [f"model family {family}"]):
        raise _newer(name, ", ".join(unknown[:3]))
    values["geometry"] = FluxGeometry(**values["geometry"])
    for sequence in ("mechanisms", "sites"):
        values[sequence] = tuple(values[sequence])
    if flat is not None:
        values["flat"] = FlatConfig.read(flat)  # type: ignore[possibly-undefined]
    return AdapterConfig(**values)


def _check_sizes(values: Mapping[str, Any], *, most_sites: int) -> None:
    """ValueError for numbers that no adapter has, before anything is built or counted by them."""
    for name, value in {**values, **values["geometry"]}.items():
        if type(value) is int and value > MOST.get(name, value):
            raise ValueError(f"{name} is {printable(value)}, at most {MOST[name]} is allowed")
    sites = sum(len(values.get(name, ())) for name in ("sites", "double_sites", "single_sites"))
    if sites > most_sites:
        raise ValueError(f"it names {sites} sites and has {most_sites} tensors")


def _newer(name: str, what: str) -> ValueError:
    return ValueError(f"{name} was made by a newer DINOTile (it has {what}): update this one")


def _skeleton(config: AdapterConfig, *, operations: Any) -> DinoAdapter:
    """An adapter without memory, for its names and shapes."""
    with torch.device("meta"):
        return DinoAdapter(config, operations=operations)


def build_adapter(
    config: AdapterConfig, weights: Mapping[str, Tensor], *, trained: bool, operations: Any = nn
) -> LoadedAdapter:
    """From the state of an adapter with this configuration, which is copied."""
    with torch.inference_mode(False):  # so that a trainer may differentiate through the weights
        module = _skeleton(config, operations=operations)
        module.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=True)
    return described(module.requires_grad_(False).eval(), trained=trained)


def idle_mechanisms(config: AdapterConfig, weights: dict[str, Tensor]) -> frozenset[str]:
    """Mechanisms that cannot have an effect because their output weights (and biases) are all zero."""
    outputs = {m: [w for name, w in weights.items() if _OUTPUTS[m].fullmatch(name)] for m in config.mechanisms}
    return frozenset(m for m, theirs in outputs.items() if not any(bool(weight.any()) for weight in theirs))


def _initial(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    outputs = any(pattern.fullmatch(name) for pattern in _OUTPUTS.values())
    if outputs or name.startswith("gate.out.") or name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape)
    if name == "patches.mean_share":
        return torch.full(shape, 0.5)
    scale = 0.02 if name.startswith("null_") else shape[1:].numel() ** -0.5
    return torch.randn(shape, generator=generator) * scale


def _check_weights(config: AdapterConfig, weights: dict[str, Tensor], name: str) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in _skeleton(config, operations=nn).state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    check_floating(weights, name=name)
    if expected == found:
        return
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    other = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
    parts = [
        f"{label} {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
        for label, keys in (("lacks", missing), ("has unknown", extra), ("has another shape of", other))
        if keys
    ]
    raise ValueError(f"{name} does not fit its own header: it {'; it '.join(parts)}: download or save it again")
