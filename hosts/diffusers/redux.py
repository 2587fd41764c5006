"""The tokens that FLUX.1 Redux gives a picture: SigLIP's patches through Redux's two layers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...files.errors import printable, whole
from ...files.fingerprints import file_fingerprint
from ...files.pixels import resize
from ...files.weights import check_floating, read_weights
from .sources import loading, local_path

SIGLIP_FILES = ("image_encoder/model.safetensors", "model.safetensors")
REDUX_FILES = (
    "flux1-redux-dev.safetensors",
    "image_embedder/diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors",
)
HEADS = {768: 12, 1024: 16, 1152: 16}  # by width; tensors do not tell (google-research/big_vision, siglip)
SIDES = {(27, 14): 384}  # by patches per side and patch: pictures that do not divide into patches


@dataclass(frozen=True, eq=False)
class ReduxTeacher:
    """Frozen SigLIP and Redux weights. grid: tokens per side; width: of a token; side: of the picture that SigLIP sees.

    fingerprints: of the two files.
    """

    siglip: nn.Module
    up: nn.Linear
    down: nn.Linear
    side: int
    grid: int
    fingerprints: tuple[str, str]

    @property
    def width(self) -> int:
        return self.down.out_features

    @cached_property
    def model(self) -> nn.ModuleList:
        """All weights, which move together."""
        return nn.ModuleList([self.siglip, self.up, self.down])

    @torch.no_grad()
    def tokens(self, pixels: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1, squeezed to a square as Redux does, to tokens [B, grid, grid, width]."""
        weight = self.up.weight
        square = resize(pixels.float(), height=self.side, width=self.side)
        inputs = (2 * square - 1).to(weight.device, weight.dtype)
        hidden = self.siglip(pixel_values=inputs).last_hidden_state  # [B, grid^2, D]
        return rearrange(self.down(F.silu(self.up(hidden))), "b (h w) c -> b h w c", h=self.grid)


def load_teacher(
    siglip: str | Path,
    redux: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ReduxTeacher:
    """SigLIP's vision model and Redux's layers from .safetensors files, their folders or hub names.

    Sizes are read from the tensors. ValueError, one sentence, where the files are something else or do not fit.
    """
    siglip_file, redux_file = _find(siglip, SIGLIP_FILES), _find(redux, REDUX_FILES)
    model, side, grid = _siglip(siglip_file)
    up, down = _redux(redux_file)
    width = model.config.hidden_size
    if up.in_features != width:
        raise ValueError(
            f"{redux_file.name} takes tokens {up.in_features} wide, SigLIP {siglip_file.name} gives {width}: "
            "give the SigLIP that the Redux model was made for"
        )
    for module in (model, up, down):
        module.to(device, dtype).eval().requires_grad_(False)
    return ReduxTeacher(model, up, down, side, grid, (file_fingerprint(siglip_file), file_fingerprint(redux_file)))


def _find(source: str | Path, names: Sequence[str]) -> Path:
    path = local_path(source)
    if path is None:
        return _download(str(source), names)
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"folder {path} holds none of {', '.join(names)}: give the .safetensors file itself")


def _download(repository: str, names: Sequence[str]) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with loading(repository, examples=("black-forest-labs/FLUX.1-Redux-dev",)):
        unreached = None
        for name in names:
            try:
                file = Path(hf_hub_download(repository, name, local_files_only=unreached is not None))
            except LocalEntryNotFoundError as error:  # the hub is not reached: another name may be on this disk
                unreached = unreached or error
                continue
            except EntryNotFoundError:
                continue
            try:
                hf_hub_download(repository, str(Path(name).with_name("config.json")))
            except EntryNotFoundError:
                pass  # the file alone will do where its sizes are known
            return file
        if unreached is not None:
            raise unreached
    raise ValueError(f"{repository} holds none of {', '.join(names)}: give another hub name or the .safetensors file")


def _siglip(path: Path) -> tuple[Any, int, int]:
    """The model without its pooling head, the side of its pictures and its tokens per side."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    state = _vision_weights(_weights(path), name=path.name)
    values = _siglip_config(state, path)
    with whole(path.name, "SigLIP vision model"):
        model = SiglipVisionModel(SiglipVisionConfig(**values, vision_use_head=False))
        wanted = {name: name.removeprefix("vision_model.") for name in model.state_dict()}
        model.load_state_dict({name: state[short] for name, short in wanted.items()}, strict=True)
    return model, values["image_size"], values["image_size"] // values["patch_size"]


def _vision_weights(state: Mapping[str, Tensor], *, name: str) -> dict[str, Tensor]:
    mark = "vision_model."
    nested = any(mark in key for key in state)
    weights = {
        key.partition(mark)[2] if nested else key: tensor for key, tensor in state.items() if mark in key or not nested
    }
    if "embeddings.patch_embedding.weight" not in weights or "embeddings.class_embedding" in weights:
        some = ", ".join(map(printable, list(state)[:3])) or "no tensors"
        raise ValueError(
            f"{name} is no SigLIP vision model (it holds {some}): give the one that the Redux model was made for"
        )
    return weights


def _siglip_config(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Arguments of SiglipVisionConfig: sizes from the tensors, the rest from a config.json beside them or ``HEADS``."""
    said: dict[str, Any] = {}
    beside = path.with_name("config.json")
    with whole(path.name, "SigLIP vision model"):
        if beside.is_file():
            said = json.loads(beside.read_text(encoding="utf-8"))
            said = said.get("vision_config", said)
        kernel = state["embeddings.patch_embedding.weight"]
        hidden, patch = kernel.shape[0], kernel.shape[-1]
        grid = math.isqrt(state["embeddings.position_embedding.weight"].shape[0])
        side = int(said.get("image_size", SIDES.get((grid, patch), grid * patch)))
        layers = {int(name.split(".")[2]) for name in state if name.startswith("encoder.layers.")}
        inner = state["encoder.layers.0.mlp.fc1.weight"].shape[0]
        if side // patch != grid or layers != set(range(len(layers))):
            raise ValueError(f"{side} px, {grid} patches a side and {len(layers)} layers do not fit")
        heads = int(said.get("num_attention_heads", HEADS.get(hidden, 0))) or None
    if heads is None:
        raise ValueError(f"{path.name} is {hidden} wide and does not say its heads: put its config.json beside it")
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": side,
        **{name: said[name] for name in ("hidden_act", "layer_norm_eps") if name in said},
    }


def _weights(path: Path) -> dict[str, Tensor]:
    weights, _ = read_weights(path)
    floating = {name: tensor for name, tensor in weights.items() if not name.endswith("position_ids")}
    check_floating(floating, name=path.name)
    return floating


def _redux(path: Path) -> tuple[nn.Linear, nn.Linear]:
    state = _weights(path)
    names = [f"redux_{half}.{part}" for half in ("up", "down") for part in ("weight", "bias")]
    if any(name not in state for name in names):
        some = ", ".join(map(printable, list(state)[:3])) or "no tensors"
        raise ValueError(f"{path.name} is no FLUX.1 Redux model (it holds {some}), needed are {', '.join(names)}")
    layers = []
    with whole(path.name, "FLUX.1 Redux model"):
        for half in ("up", "down"):
            outputs, inputs = state[f"redux_{half}.weight"].shape
            layer = nn.Linear(inputs, outputs, device="meta")
            layer.load_state_dict({part: state[f"redux_{half}.{part}"] for part in ("weight", "bias")}, assign=True)
            layers.append(layer)
        if layers[0].out_features != layers[1].in_features:
            raise ValueError(f"redux_up gives {layers[0].out_features} and redux_down takes {layers[1].in_features}")
    return layers[0], layers[1]
