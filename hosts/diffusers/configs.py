"""What a config.json asks for, held against the tensors beside it before anything is built by it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ...files.errors import printable, reason
from ...files.weights import not_floating, read_kinds
from ...flux_patch.names import called

COUNTS = {  # of layers, in diffusers and in transformers
    "num_layers",
    "num_single_layers",
    "layers_per_block",
    "num_encoder_blocks",
    "num_decoder_blocks",
    "num_hidden_layers",
    "num_decoder_layers",
}
MOST = 2**20  # of any number: a width, the size of a vocabulary
ANGLES = "rope_theta"  # Mistral's is 10^9, and makes no tensor larger
MOST_LAYERS = 1000  # where no tensors are at hand


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder; ValueError where it is none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it is {printable(config)}")
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{path} does not hold a whole model's config ({reason(error)}): download it again") from error
    return config


def check_folder(folder: Path, *, floating: bool) -> None:
    """ValueError where a folder's config.json asks for more layers than its files have tensors.

    floating: whether the tensors must all be floating point, if the config does not say how they are quantised.
    """
    config, kinds = read_config(folder), {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            kinds |= read_kinds(path)
    except ValueError as error:
        raise ValueError(f"{folder} does not hold a whole model ({reason(error)}): download it again") from error
    check_config(config, name=str(folder), tensors=len(kinds) or None)
    counted = "bn.num_batches_tracked"  # in FLUX.2's VAE, a whole number
    odd = next((name for name, kind in kinds.items() if not kind.startswith(("F", "BF")) and name != counted), None)
    if odd and floating and "quantization_config" not in config:
        raise ValueError(not_floating(str(folder), odd, kinds[odd]))


def check_quantised(config: Mapping[str, Any], *, name: str) -> None:
    """ValueError where a model was quantised by bitsandbytes, and diffusers could not read it here."""
    quantised = config.get("quantization_config")
    if not isinstance(quantised, Mapping) or quantised.get("quant_method") != "bitsandbytes":
        return
    if find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise ValueError(
            f"{name} is quantised by bitsandbytes, which diffusers reads with that library and a CUDA GPU only: install it "
            "(pip install bitsandbytes), or give the full model, with --weights nf4"
        )


def check_config(config: Mapping[str, Any], *, name: str, tensors: int | None = None) -> None:
    """ValueError where a configuration asks for more layers than there are tensors, or for numbers that no model has."""
    layers = 0
    for key, value in _values(config):
        if type(value) is list:
            layers += len(value)
        elif type(value) is int and abs(value) > MOST and key != ANGLES:
            raise ValueError(_absurd(name, f"{printable(key)} {printable(value)}", f"at most {MOST:,} is allowed"))
        elif type(value) is int and key in COUNTS:
            layers += value
    if layers > (tensors or MOST_LAYERS):
        most = f"it has {tensors:,} tensors" if tensors else f"at most {MOST_LAYERS:,} are allowed"
        raise ValueError(_absurd(name, f"{layers:,} layers", most))


def _absurd(name: str, wanted: str, most: str) -> str:
    return f"{name} does not hold a whole model (its config.json asks for {wanted}, {most}): download it again"


def _values(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value, however deep, with the key that it lies under."""
    rest: list[tuple[str, Any]] = list(config.items())
    while rest:
        key, value = rest.pop()
        yield key, value
        if isinstance(value, Mapping):
            rest += value.items()
        elif isinstance(value, list):
            rest += [(key, each) for each in value]


def other_model(source: str | Path, kind: Any, *, title: str = "") -> ValueError:
    """What is said of a model that ComfyUI may run, and this host does not. kind: its class in diffusers, where it is told.
    title: what people call it, where that is known."""
    said = title or (called(str(kind)) if kind else "no model of diffusers")
    return ValueError(
        f"{source} holds {printable(said)}, needed is a FLUX.1 or FLUX.2 transformer: give its folder or file, or "
        "take the nodes in ComfyUI for other models"
    )
