"""Patch features of a picture, and their resampling into regions of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
from torch import Tensor

Scales = Literal["averaged", "apart"]


def encoded_how(layers: str, crops: int, scales: Scales) -> str:
    """What features of one encoder must have in common, in words: "8", or "8 crops 2 apart"."""
    return layers if crops == 1 else f"{layers} crops {crops} {scales}"


def decoded_how(how: str) -> tuple[str, int, Scales]:
    """Layers, crops and scales of what ``encoded_how`` gave; ValueError for other words."""
    layers, _, rest = how.partition(" crops ")
    crops, _, scales = rest.partition(" ")
    if not rest:
        return layers, 1, "averaged"
    if crops != "2" or scales not in get_args(Scales):
        raise ValueError(f"features are of layers {how!r}, which nothing here makes: use another file")
    return layers, 2, cast(Scales, scales)


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """DINO features of a batch of equally large pictures, each covered completely by the patch grid."""

    patches: Tensor  # [B, h, w, D]
    cls: Tensor  # [B, D]
    spec: str
    layers: str  # block numbers from 1, such as "8" or "9,18,24"
    image_size: tuple[int, int]  # height, width in pixels
    crops: int = 1  # and scales: of ``EncodeSettings``
    scales: Scales = "averaged"

    def __repr__(self) -> str:
        height, width = self.image_size
        shapes = f"patches {list(self.patches.shape)}, cls {list(self.cls.shape)}"
        return f"FeatureMap({self.spec} layers {self.how}, {shapes}, of {width} x {height} px)"

    @property
    def how(self) -> str:
        return encoded_how(self.layers, self.crops, self.scales)

    def sample(self, boxes: Sequence[tuple[float, float, float, float]], grid: int, *, margin: float = 0.0) -> Tensor:
        """``sample_grid`` of the patches: [B, len(boxes), grid, grid, D]."""
        return sample_grid(self.patches, boxes, grid, margin=margin)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "FeatureMap":
        """The same map on another device and, if given, in another dtype."""
        return self.with_patches(self.patches.to(device, dtype), self.cls.to(device, dtype))

    def with_patches(self, patches: Tensor, cls: Tensor) -> "FeatureMap":
        """The same picture with other features: patches [B, h, w, D'], cls [B, D']."""
        return replace(self, patches=patches, cls=cls)


def sample_grid(
    patches: Tensor, boxes: Sequence[tuple[float, float, float, float]], grid: int, *, margin: float = 0.0
) -> Tensor:
    """Regions of pictures [B, h, w, D] on a `grid` x `grid` lattice of cell centres.

    boxes: (top, left, height, width) as fractions of the picture. margin: share of the box's own height and
    width added on every side (0..1). Returns [B, len(boxes), grid, grid, D].
    Bilinear between patch centres and clamped at the picture's border; a cell larger than a patch is the mean of
    one sample per patch that it spans, so a large region is averaged and never aliased.
    """
    if grid < 1:
        raise ValueError(f"grid {grid} must be at least 1: ask for one or more cells per side")
    if not boxes:
        raise ValueError("no boxes given, at least one is needed: pass (0, 0, 1, 1) for the whole picture")
    return torch.stack([_sample_one(patches, box, grid, margin) for box in boxes], dim=1)  # [B, N, grid, grid, D]


def _sample_one(patches: Tensor, box: tuple[float, float, float, float], grid: int, margin: float) -> Tensor:
    top, left, height, width = box
    if not (height > 0 and width > 0 and margin > -0.5):
        raise ValueError(f"box {box} with margin {margin} covers nothing: give positive sides, and a margin above -0.5")
    top, height = top - margin * height, height * (1 + 2 * margin)
    left, width = left - margin * width, width * (1 + 2 * margin)
    row_start, rows = _axis_weights(top, height, cells=grid, patches=patches.shape[1])
    col_start, cols = _axis_weights(left, width, cells=grid, patches=patches.shape[2])
    near = patches[:, row_start : row_start + rows.shape[1], col_start : col_start + cols.shape[1]].float()
    rows, cols = rows.to(near.device), cols.to(near.device)
    out = (rows @ near.flatten(2)).unflatten(2, near.shape[2:])  # [B, grid, x, D]
    out = cols @ out  # [B, grid, grid, D]
    return out.to(patches.dtype)


def _axis_weights(start: float, length: float, *, cells: int, patches: int) -> tuple[int, Tensor]:
    """How much each patch of one axis counts in each cell: first patch used, weights [cells, patches used]."""
    samples = max(1, math.ceil(length * patches / cells - 1e-6))  # per cell: one for every patch that it spans
    steps = (torch.arange(cells * samples, dtype=torch.float64) + 0.5) / (cells * samples)
    at = ((start + length * steps) * patches - 0.5).clamp(0, patches - 1)  # in patches, 0 = centre of the first
    low = at.floor().long()
    high = (low + 1).clamp(max=patches - 1)
    share = at - low
    weights = torch.zeros(cells * samples, patches, dtype=torch.float64)
    weights.scatter_add_(1, low[:, None], (1 - share)[:, None])
    weights.scatter_add_(1, high[:, None], share[:, None])
    first, last = int(low.min()), int(high.max())
    weights = weights.unflatten(0, (cells, samples)).mean(dim=1)  # [cells, patches]
    return first, weights[:, first : last + 1].float()
