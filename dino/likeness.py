"""How alike the patches of a picture are to their encoder: what detail and regions are told by."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

COMPARED = 6000  # patches that each is compared with, about; of more, every second row and column is taken, or third
ROWS = 1024  # patches that are compared at a time


def centred(patches: Tensor) -> Tensor:
    """Patches [B, h, w, D] without their picture's mean, which tells nothing about what lies where, and of length 1.

    0 where nothing but rounding is left, as in a picture whose patches are all the same.
    """
    patches = patches.float()
    apart = patches - patches.mean(dim=(1, 2), keepdim=True)
    told = apart.norm(dim=-1, keepdim=True) > 1e-4 * patches.norm(dim=-1, keepdim=True)
    return F.normalize(apart, dim=-1) * told


def shifted(grid: Tensor, radius: int) -> Iterator[Tensor]:
    """The grid [B, h, w, ...] as each place of a square around a patch sees it, the patch itself in the middle; the border's
    rows and columns go on beyond it."""
    for down in range(-radius, radius + 1):
        rows = grid[:, _moved(grid.shape[1], down)]
        for right in range(-radius, radius + 1):
            yield rows[:, :, _moved(grid.shape[2], right)]


def near_likeness(units: Tensor, *, most: int = 8) -> Tensor:
    """Mean cosine of each patch with those of the eight around it that are most like it: [B, h, w] of ``centred`` patches; 1
    where nothing is left of them."""
    around = [1 - (units - other).square().sum(dim=-1) / 2 for other in shifted(units, 1)]
    del around[4]  # itself
    return torch.stack(around).topk(most, dim=0).values.mean(dim=0)


def like_share(units: Tensor) -> Tensor:
    """How much of its picture is like each patch: [B, h, w] in 0..1, of ``centred`` patches.

    A patch counts 0 up to a cosine of .2 and 1 from .6 on. Not the entropy of a softmax over the cosines: the nearest
    neighbours, which are most alike anywhere, decide that one.
    """
    step = math.ceil((units.shape[1] * units.shape[2] / COMPARED) ** 0.5)
    others = units[:, ::step, ::step].flatten(1, 2)  # [B, n, D]
    rows = units.flatten(1, 2).split(ROWS, dim=1)
    shares = [ramp(part @ others.mT, 0.2, 0.6).mean(dim=2) for part in rows]
    return torch.cat(shares, dim=1).view(units.shape[:3])


def standing_out(patches: Tensor) -> Tensor:
    """How far each patch lies from its picture's mean, over what patches do on average: [B, h, w] of patches [B, h, w, D]."""
    patches = patches.float()
    apart = (patches - patches.mean(dim=(1, 2), keepdim=True)).norm(dim=-1)
    return apart / apart.mean(dim=(1, 2), keepdim=True).clamp(min=1e-6)


def ramp(values: Tensor, start: float, end: float) -> Tensor:
    """0 up to ``start``, 1 from ``end`` on, linear between."""
    return ((values - start) / (end - start)).clamp(0, 1)


def smoothed(values: Tensor, units: Tensor, *, radius: int) -> Tensor:
    """Means of values [B, h, w] over a square of patches, which count by how alike they are to the one in the middle, so that
    nothing runs over the border of an object (a joint bilateral filter): one whose cosine is .2 less counts 1/e."""
    total = weight = torch.zeros_like(values)
    for value, other in zip(shifted(values, radius), shifted(units, radius), strict=True):
        alike = (((units * other).sum(dim=-1) - 1) / 0.2).exp()
        total, weight = total + alike * value, weight + alike
    return total / weight


def _moved(length: int, by: int) -> Tensor:
    return (torch.arange(length) + by).clamp(0, length - 1)
