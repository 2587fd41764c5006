"""``dinotile flatdino redundancy``: how much DINO's patches repeat their neighbours, and how many dimensions they fill."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...files.progress import Progress, counted
from .patches import TOGETHER, Patches

MOST_POINTS = 4000  # that distances are measured between
SHARES = (0.9, 0.95, 0.99)  # of the variance


@dataclass(frozen=True)
class Redundancy:
    """Of patches less their mean over all pictures.

    alike: mean cosine of patches so many rows or columns apart, from 1 on. components: principal ones that hold each of
    ``SHARES`` of the variance. effective: (sum of variances)^2 / sum of their squares. intrinsic: the dimension by distances to
    the two nearest patches (``two_nearest``).
    """

    pictures: int
    width: int
    alike: list[float]
    components: list[int]
    effective: float
    intrinsic: float

    def lines(self) -> list[str]:
        """For people to read."""
        alike = ", ".join(f"{value:.3f}" for value in self.alike)
        held = ", ".join(f"{count} hold {share:.0%}" for count, share in zip(self.components, SHARES, strict=True))
        return [
            f"{self.pictures} pictures, patches {self.width} wide",
            f"cosine of patches 1, 2, ... apart: {alike}",
            f"principal components: {held}; effective {self.effective:.1f}",
            f"intrinsic dimension: {self.intrinsic:.1f}",
        ]


@torch.no_grad()
def redundancy(data: Patches, *, most: int = 1000, progress: Progress | None = None) -> Redundancy:
    """Of the compressed layer of at most ``most`` pictures; ValueError for fewer than two that can be used."""
    count, parts = min(most, len(data)), []
    for start in counted(range(0, count, TOGETHER), "look", progress):
        parts += [patches[:, 0] for _, patches in data.whole(range(start, min(start + TOGETHER, count)))]
    patches = torch.cat(parts) if parts else torch.zeros(0)
    data.check_count(len(patches))
    centred = patches - patches.mean((0, 1, 2))
    rows = centred.flatten(0, 2)
    variances = torch.linalg.eigvalsh(rows.double().T @ rows.double() / len(rows)).flip(0).clamp(min=0)
    held = variances.cumsum(0) / variances.sum()
    few = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:MOST_POINTS]]
    return Redundancy(
        pictures=len(patches),
        width=patches.shape[3],
        alike=[_alike(centred, apart) for apart in range(1, min(patches.shape[1:3]))],
        components=[int((held < share).sum()) + 1 for share in SHARES],
        effective=float(variances.sum().square() / variances.square().sum()),
        intrinsic=two_nearest(few),
    )


def two_nearest(points: Tensor) -> float:
    """The dimension of points [n, D], by the ratio of the distances to the two nearest others (TwoNN, Facco et al., 2017): the
    number of points over the sum of the logarithms of the ratios. Points that lie on another one do not count; 0 for none."""
    distances = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(float("inf"))
    first, second = distances.topk(2, largest=False).values.T  # [n] each
    ratios = (second / first)[first > 0].log()
    return len(ratios) / float(ratios.sum()) if float(ratios.sum()) > 0 else 0.0


def _alike(patches: Tensor, apart: int) -> float:
    down = F.cosine_similarity(patches[:, apart:], patches[:, :-apart], dim=-1)
    right = F.cosine_similarity(patches[:, :, apart:], patches[:, :, :-apart], dim=-1)
    return float(torch.cat([down.flatten(), right.flatten()]).mean())
