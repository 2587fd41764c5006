"""DINO over ComfyUI's own vision models, duck-typed: nothing of ComfyUI is imported here."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...dino.specs import SPECS, DinoSpec


class ClipVisionBackbone:
    """The backbone of a CLIP_VISION that holds DINOv2 L/g or DINOv3 L/H+ (``Backbone`` of encode.py).

    The host gives all blocks of DINOv2, of DINOv3 only the last.
    """

    def __init__(self, model: nn.Module, spec: DinoSpec) -> None:
        self.model = model
        self.spec = spec

    def hidden(self, pixels: Tensor, blocks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        rows, columns = (side // self.spec.patch for side in pixels.shape[2:])
        model: Any = self.model
        if self.spec.family == "dinov2":
            found = model.get_intermediate_layers(pixels, [block - 1 for block in blocks], apply_norm=False)
        elif blocks == (self.spec.depth,):
            tokens = model(pixel_values=pixels, skip_norm_elementwise=True)[0]  # normalised without affine
            found = [(tokens[:, self.spec.prefix :], tokens[:, 0])]
        else:
            raise ValueError(
                f"blocks {list(blocks)} of {self.spec.name} were asked for, a CLIP_VISION gives only the last "
                f"({self.spec.depth}): set layers to last, or use Load DINO Model"
            )
        return [(patches.unflatten(1, (rows, columns)), cls) for patches, cls in found]  # [B, h, w, D], [B, D]


def clip_vision_spec(config: dict[str, Any]) -> DinoSpec:
    """The spec of a CLIP_VISION's config; ValueError where it is no DINO model."""
    family, registers = config.get("model_type"), config.get("num_register_tokens", 0)
    found = (family, config.get("hidden_size"), config.get("num_hidden_layers"), registers)
    for spec in SPECS.values():
        if found == (spec.family, spec.width, spec.depth, spec.registers):
            return spec
    raise ValueError(
        f"the CLIP Vision model is of type {family!r} and no DINO model: load a DINOv2 or DINOv3 file in Load CLIP Vision"
    )
