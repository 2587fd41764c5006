"""A DINO vision transformer as transformers implements it, run block by block."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..files.errors import printable, whole
from .layouts import parts_of, plain_name
from .specs import DinoSpec


class TransformersBackbone:
    """Hidden states of Dinov2Model, Dinov2WithRegistersModel or DINOv3ViTModel, up to the last block asked for."""

    def __init__(self, model: nn.Module, spec: DinoSpec) -> None:
        self.model = model
        self.spec = spec

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def hidden(self, pixels: Tensor, blocks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Raw outputs of blocks counted from 1: [(patches [B, h, w, D], cls [B, D]), ...], ascending."""
        h, w = pixels.shape[2] // self.spec.patch, pixels.shape[3] // self.spec.patch
        outputs = []
        for number, tokens in enumerate(self._run(pixels), start=1):
            if number in blocks:
                patches = tokens[:, self.spec.prefix :].unflatten(1, (h, w))  # [B, h, w, D]
                outputs.append((patches, tokens[:, 0]))
            if number == max(blocks):
                break
        return outputs

    def _run(self, pixels: Tensor) -> Iterator[Tensor]:
        """Tokens [B, prefix + h * w, D] after every block."""
        model: Any = self.model  # three classes of transformers, alike in what is used here
        pixels = pixels.to(next(model.parameters()).dtype)
        tokens = model.embeddings(pixels)
        if self.spec.family == "dinov2":
            layers, positions = model.encoder.layer, {}
        else:
            layers = getattr(model, "model", model).layer  # transformers 5 nests the blocks, 4 does not
            positions = {"position_embeddings": model.rope_embeddings(pixels)}
        for layer in layers:
            tokens = layer(tokens, **positions)
            tokens = tokens[0] if isinstance(tokens, tuple) else tokens  # transformers 4 wraps them
            yield tokens


def build_model(spec: DinoSpec) -> nn.Module:
    """The transformers model of a spec with fresh weights, on torch's default device."""
    import transformers

    size: dict[str, Any] = {
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "patch_size": spec.patch,
    }
    gated = spec.mlp == "swiglu"
    if spec.family == "dinov3":
        try:
            kind, config = transformers.DINOv3ViTModel, transformers.DINOv3ViTConfig
        except (AttributeError, ImportError) as error:
            raise ValueError(
                f"transformers {transformers.__version__} has no DINOv3: install transformers 4.56 or newer"
            ) from error
        size |= {"intermediate_size": spec.mlp_width, "num_register_tokens": spec.registers}
        return kind(config(**size, use_gated_mlp=gated, hidden_act="silu" if gated else "gelu"))
    size |= {
        "image_size": spec.train_side,
        "use_swiglu_ffn": gated,
        "mlp_ratio": 4 if gated else spec.mlp_width // spec.width,
    }
    if spec.registers:
        config = transformers.Dinov2WithRegistersConfig(**size, num_register_tokens=spec.registers)
        return transformers.Dinov2WithRegistersModel(config)
    return transformers.Dinov2Model(transformers.Dinov2Config(**size))


def model_with(weights: Mapping[str, Tensor], spec: DinoSpec) -> nn.Module:
    """The transformers model of a spec around weights under plain names; ValueError unless names and shapes all fit."""
    with torch.device("meta"):  # no time or memory for weights that are replaced at once
        model: Any = build_model(spec)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = {}
    for name in wanted:
        parts = parts_of(plain_name(name))
        if all(part in weights for part in parts):
            with whole("this file", "DINO encoder"):
                state[name] = torch.cat([weights[part] for part in parts]) if len(parts) > 1 else weights[parts[0]]
    known = {part for name in wanted for part in parts_of(plain_name(name))}
    wrong = {
        "missing": [plain_name(name) for name in wanted if name not in state],
        "unexpected": [name for name in weights if name not in known],
        "misshapen": [plain_name(name) for name in state if tuple(state[name].shape) != wanted[name]],
    }
    said = [
        f"{len(names)} are {word} ({', '.join(map(printable, names[:3]))})" for word, names in wrong.items() if names
    ]
    if said:
        raise ValueError(
            f"this looks like {spec.name}, but of its tensors {', '.join(said)}, all must fit: get the original file"
        )
    model.load_state_dict(state, strict=True, assign=True)
    if spec.family == "dinov3":  # its frequencies are computed, not stored
        model.rope_embeddings = type(model.rope_embeddings)(model.config)
    return model.eval().requires_grad_(False)
