"""What is counted on a picture that was upscaled from a scene of the world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dinotile.demo import world
from dinotile.tiling.plan import TilePlan
from dinotile.tiling.seams import border_ratio

from .classifier import CELL, TextureClassifier, cell_labels

LEAST = 12  # cells of an object that a tile must hold to count for agreement


@dataclass(frozen=True)
class Scores:
    """accuracy: share of the objects' area whose texture is the object's own. agreement: share of the objects' area, by
    tiles, whose texture is the one that most of the object has. sharpness: mean gradient inside objects over the true
    picture's. colour: mean absolute difference to the flat picture after averaging over 32 px, in 1/255. seams: step across
    tile borders over the step elsewhere.
    """

    accuracy: float
    agreement: float
    sharpness: float
    colour: float
    seams: float


@torch.no_grad()
def measure(
    pixels: Tensor, scene: world.Scene, plan: TilePlan, judge: TextureClassifier, *, wanted: Tensor | None = None
) -> Scores:
    """pixels: [1, 3, side, side]. plan: the tiles that agreement and seams are counted on, also for untiled pictures.
    wanted: other textures [side / CELL, side / CELL] to count accuracy against, GROUND where nothing is counted."""
    share, own = cell_labels(scene)
    labels = own if wanted is None else wanted
    named = judge(pixels.clamp(0, 1))[0].argmax(0)
    area = share * ((labels != world.GROUND) & (own != world.GROUND) & (share > 0.5))
    true, flat = (torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in (scene.true(), scene.flat()))
    inside = (torch.from_numpy(scene.labels()) != world.GROUND)[None, None]
    colour = (avg_pool2d(pixels, 32) - avg_pool2d(flat, 32)).abs().mean() * 255
    return Scores(
        accuracy=float((area * (named == labels)).sum() / area.sum()),
        agreement=agreement(named, scene, plan),
        sharpness=_gradient(pixels, inside) / _gradient(true, inside),
        colour=float(colour),
        seams=border_ratio(pixels, plan),
    )


def agreement(named: Tensor, scene: world.Scene, plan: TilePlan) -> float:
    """named: the texture of every cell. Each tile gives every object that it shows one texture, its most frequent."""
    agreed = counted = 0
    for thing in scene.things:
        mask = torch.from_numpy(scene.mask(thing))
        covered = avg_pool2d(mask[None, None], CELL)[0, 0] > 0.5
        votes = []
        for box in plan.boxes:
            cells = slice(box.top // CELL, box.bottom // CELL), slice(box.left // CELL, box.right // CELL)
            seen = named[cells][covered[cells]]
            if len(seen) >= LEAST:
                votes.append((int(seen.mode().values), len(seen)))
        if len(votes) > 1:
            totals = {kind: sum(size for k, size in votes if k == kind) for kind, _ in votes}
            agreed += max(totals.values())
            counted += sum(totals.values())
    return agreed / counted if counted else math.nan


def summary(scores: Sequence[Scores]) -> dict[str, tuple[float, float]]:
    """Mean and half the width of its 95 % interval (Student's t over pictures and seeds)."""
    found = {}
    for field in fields(Scores):
        values = torch.tensor([getattr(score, field.name) for score in scores], dtype=torch.float64)
        values = values[~values.isnan()]
        error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.nan
        found[field.name] = (float(values.mean()), float(student.ppf(0.975, len(values) - 1)) * error)
    return found


def _gradient(pixels: Tensor, inside: Tensor) -> float:
    """Mean absolute difference of vertical and horizontal neighbours inside the objects."""
    grey = pixels.mean(1, keepdim=True)
    down, right = grey.diff(dim=2).abs(), grey.diff(dim=3).abs()
    return float(down[inside[:, :, 1:]].mean() + right[inside[..., 1:]].mean())
