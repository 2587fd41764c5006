"""The shape of a FLUX model, read from the model, and the mathematics of its rotary positions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

AXES = (16, 56, 56)  # rotary channels per head for (index, height, width)
THETA = 10_000
SUPPORTED = "FLUX.1 (dev, schnell, Krea, Kontext, Fill)"


@dataclass(frozen=True)
class FluxGeometry:
    """Widths and depths of a FLUX.1 transformer. ``vector`` is the width of the pooled text vector."""

    hidden: int
    heads: int
    double_blocks: int
    single_blocks: int
    context: int
    vector: int

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads

    def __str__(self) -> str:
        return (
            f"width {self.hidden}, {self.heads} heads, {self.double_blocks} double and {self.single_blocks} single blocks, "
            f"context {self.context}, vector {self.vector}"
        )

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def geometry_of(model: Any) -> FluxGeometry:
    """Read the geometry of ComfyUI's ``Flux`` or diffusers' ``FluxTransformer2DModel``; ValueError for anything else."""
    if type(model).__name__ == "FluxTransformer2DModel":
        config = model.config
        geometry = FluxGeometry(
            hidden=config.num_attention_heads * config.attention_head_dim,
            heads=config.num_attention_heads,
            double_blocks=config.num_layers,
            single_blocks=config.num_single_layers,
            context=config.joint_attention_dim,
            vector=config.pooled_projection_dim,
        )
        axes = tuple(config.axes_dims_rope)
    elif type(model).__name__ == "Flux" and hasattr(model, "double_blocks"):
        params = model.params
        if params.global_modulation or not params.vec_in_dim or params.txt_ids_dims:
            raise ValueError(f"the model is of the FLUX.2 kind, DINOTile supports {SUPPORTED}: load one of those")
        geometry = FluxGeometry(
            hidden=params.hidden_size,
            heads=params.num_heads,
            double_blocks=params.depth,
            single_blocks=params.depth_single_blocks,
            context=params.context_in_dim,
            vector=params.vec_in_dim,
        )
        axes = tuple(params.axes_dim)
    else:
        raise ValueError(f"the model is a {type(model).__name__}, DINOTile supports {SUPPORTED}: load one of those")
    if axes != AXES:
        raise ValueError(f"the model's rotary axes are {axes}, FLUX.1's are {AXES}: load {SUPPORTED}")
    return geometry


def rotary(ids: Tensor) -> Tensor:
    """Rotation per position for FLUX's axes (RoFormer, arXiv 2104.09864, eq. 34).

    ids: [N, 3] positions (index, height, width) on the CPU, may be fractional. Returns cosines and sines [N, D/2, 2],
    float32. The angles need float64, which some devices lack.
    """
    angles = []
    for axis, channels in enumerate(AXES):
        exponents = torch.arange(0, channels, 2, dtype=torch.float64) / channels
        angles.append(ids[:, axis, None].double() * THETA**-exponents)
    angle = torch.cat(angles, dim=1)  # [N, D/2]
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate consecutive channel pairs of ``x`` [..., N, D] by ``rotation`` [N, D/2, 2]; keeps the dtype of ``x``."""
    pairs = x.float().unflatten(-1, (-1, 2))  # [..., N, D/2, 2]
    cos, sin = rotation[..., 0], rotation[..., 1]
    even, odd = pairs[..., 0], pairs[..., 1]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).to(x.dtype)


@dataclass(frozen=True)
class RopeOptions:
    """ComfyUI's ``rope_options``: image positions are multiplied by the scale, then shifted."""

    scale_y: float = 1.0
    scale_x: float = 1.0
    shift_t: float = 0.0
    shift_y: float = 0.0
    shift_x: float = 0.0

    @classmethod
    def read(cls, options: dict[str, float] | None) -> RopeOptions:
        """From ``transformer_options``, which may hold more than images use."""
        options = options or {}
        return cls(**{field.name: options[field.name] for field in fields(cls) if field.name in options})


def image_ids(height: int, width: int, *, options: RopeOptions) -> Tensor:
    """Positions [height * width, 3] of the image tokens, as FLUX gives them."""
    rows = torch.arange(height, dtype=torch.float32)
    columns = torch.arange(width, dtype=torch.float32)
    return _grid_ids(rows, columns, options)


def dino_ids(grid: int, *, height: int, width: int, options: RopeOptions) -> Tensor:
    """Positions [1 + grid * grid, 3] of [CLS | patches] for a region of ``height`` x ``width`` image tokens.

    A patch lies on the image axis at the centre of the cells that it covers (OminiControl, arXiv 2411.15098: spatially
    aligned conditions share the image's positions). CLS sits at the origin, as text does.
    """
    centres = (torch.arange(grid, dtype=torch.float32) + 0.5) / grid
    patches = _grid_ids(centres * height - 0.5, centres * width - 0.5, options)
    return torch.cat([torch.zeros(1, 3), patches])


def _grid_ids(rows: Tensor, columns: Tensor, options: RopeOptions) -> Tensor:
    rows = rows * options.scale_y + options.shift_y
    columns = columns * options.scale_x + options.shift_x
    ids = torch.zeros(len(rows), len(columns), 3)
    ids[..., 0] = options.shift_t
    ids[..., 1] = rows[:, None]
    ids[..., 2] = columns[None, :]
    return ids.flatten(0, 1)
