"""The shape of a FLUX model, or of one like it, read from the model, and the mathematics of its rotary positions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .families import CHROMA, FAMILIES, FLUX1, FLUX2, KREA2, ModelFamily
from .names import called


@dataclass(frozen=True)
class FluxGeometry:
    """Widths and depths of a FLUX transformer. ``vector``: width of the pooled text vector, 0 where the family has none.
    ``family``: its name in the table."""

    hidden: int
    heads: int
    double_blocks: int
    single_blocks: int
    context: int
    vector: int
    family: str = FLUX1.name

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(
                f"model family {self.family!r} is unknown, known are {', '.join(FAMILIES)}: update DINOTile"
            )

    @property
    def head_width(self) -> int:
        return self.hidden // self.heads

    def blocks(self, kind: str) -> int:
        """How many blocks of a kind there are."""
        return {"double": self.double_blocks, "single": self.single_blocks}[kind]

    def __str__(self) -> str:
        return (
            f"family {self.family}, width {self.hidden}, {self.heads} heads, {self.double_blocks} double and "
            f"{self.single_blocks} single blocks, context {self.context}, vector {self.vector}"
        )


# What the hosts call ``FluxGeometry``'s numbers after the first, in its order, and the pooled vector, where there is one.
_DIFFUSERS = ("num_attention_heads", "num_layers", "num_single_layers", "joint_attention_dim"), "pooled_projection_dim"
_COMFY = ("num_heads", "depth", "depth_single_blocks", "context_in_dim"), "vec_in_dim"
_OF_DIFFUSERS = {"FluxTransformer2DModel": FLUX1, "Flux2Transformer2DModel": FLUX2}


def family_of(model: Any) -> ModelFamily | None:
    """The family of ComfyUI's or of diffusers' model; None for any other, also for others of FLUX's layers."""
    kind = type(model).__name__
    if kind == "SingleStreamDiT" and hasattr(model, "txtfusion"):
        return KREA2
    if kind not in ("Flux", "Chroma") or not hasattr(model, "double_blocks"):
        return _OF_DIFFUSERS.get(kind)
    config = model.params
    if kind == "Chroma":
        return CHROMA
    family = FLUX2 if config.global_modulation else FLUX1
    pooled = (config.vec_in_dim is None) == (family.pooled_width is None)
    return family if pooled and bool(config.txt_ids_dims) == (family is FLUX2) else None


def geometry_of(model: Any) -> FluxGeometry:
    """Read the geometry of ComfyUI's ``Flux``, ``Chroma`` or ``SingleStreamDiT`` (Krea 2), or of diffusers'
    ``FluxTransformer2DModel`` or ``Flux2Transformer2DModel``; ValueError for anything else."""
    kind, family = type(model).__name__, family_of(model)
    if family is None:
        needed = " or ".join(known.members for known in _OF_DIFFUSERS.values())
        raise ValueError(f"the model is {called(kind)}, needed is {needed}: load one of those")
    if kind in _OF_DIFFUSERS:
        config = model.config
        axes, theta = tuple(config.axes_dims_rope), getattr(config, "rope_theta", family.theta)
        sizes, pooled = _DIFFUSERS
        hidden = config.num_attention_heads * config.attention_head_dim
    elif family is KREA2:
        return _krea2(model)
    else:
        config = model.params
        axes, theta = tuple(config.axes_dim), config.theta
        (sizes, pooled), hidden = _COMFY, config.hidden_size
    _check_positions(family, axes, theta)
    vector = 0 if family.pooled_width is None else getattr(config, pooled)
    return FluxGeometry(hidden, *(getattr(config, name) for name in sizes), vector=vector, family=family.name)


def _krea2(model: Any) -> FluxGeometry:
    """ComfyUI's keeps its sizes on itself and on its parts."""
    places = model.pe_embedder
    _check_positions(KREA2, tuple(places.axes_dim), places.theta)
    context, hidden = model.txtlayers * model.txtdim, model.first.out_features
    return FluxGeometry(hidden, model.heads, 0, len(model.blocks), context, 0, KREA2.name)


def _check_positions(family: ModelFamily, axes: tuple[int, ...], theta: float) -> None:
    if (axes, theta) != (family.axes, family.theta):
        raise ValueError(
            f"the model's rotary axes are {axes} with base {theta}, {family.title}'s are {family.axes} with {family.theta}: "
            f"load {family.members}"
        )


def rotary(ids: Tensor, family: ModelFamily) -> Tensor:
    """Rotation per position on a family's axes (RoFormer, arXiv 2104.09864, eq. 34).

    ids: [N, axes] positions on the CPU, may be fractional. Returns matrices [N, D/2, 2, 2], float32, of pairs of channels. The
    angles need float64, which some devices lack.
    """
    angles = []
    for axis, channels in enumerate(family.axes):
        exponents = torch.arange(0, channels, 2, dtype=torch.float64) / channels
        angles.append(ids[:, axis, None].double() * family.theta**-exponents)
    angle = torch.cat(angles, dim=1)  # [N, D/2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2)).float()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate consecutive channel pairs of ``x`` [..., N, D] by ``rotation`` [N, D/2, 2, 2]; keeps the dtype of ``x``.

    Few passes: the products are float32 whatever ``x`` is.
    """
    pairs = x.unflatten(-1, (-1, 1, 2))  # [..., N, D/2, 1, 2]
    rotated = pairs[..., 0] * rotation[..., 0]
    rotated.addcmul_(pairs[..., 1], rotation[..., 1])
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


PLAIN = RopeOptions()


def image_ids(height: int, width: int, *, family: ModelFamily, options: RopeOptions = PLAIN) -> Tensor:
    """Positions [height * width, axes] of the image tokens, as the model gives them."""
    rows = torch.arange(height, dtype=torch.float32)
    columns = torch.arange(width, dtype=torch.float32)
    return _grid_ids(rows, columns, family, options)


def dino_ids(
    grid: int, *, height: int, width: int, family: ModelFamily, options: RopeOptions = PLAIN, shared: int = 0
) -> Tensor:
    """Positions [1 + grid * grid + shared, axes] of [CLS | patches | shared] for a region of ``height`` x ``width`` image tokens.

    A patch lies on the image axis at the centre of the cells that it covers (OminiControl, arXiv 2411.15098: spatially
    aligned conditions share the image's positions). CLS, and what all regions share, sits at the origin, as text does.
    """
    centres = (torch.arange(grid, dtype=torch.float32) + 0.5) / grid
    patches = _grid_ids(centres * height - 0.5, centres * width - 0.5, family, options)
    return torch.cat([torch.zeros(1, len(family.axes)), patches, torch.zeros(shared, len(family.axes))])


def _grid_ids(rows: Tensor, columns: Tensor, family: ModelFamily, options: RopeOptions) -> Tensor:
    rows = rows * options.scale_y + options.shift_y
    columns = columns * options.scale_x + options.shift_x
    ids = torch.zeros(len(rows), len(columns), len(family.axes))
    ids[..., 0] = options.shift_t
    ids[..., 1] = rows[:, None]
    ids[..., 2] = columns[None, :]
    return ids.flatten(0, 1)
