"""What is counted on a picture that was upscaled from a scene of the world."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from dinotile.demo.train import world
from dinotile.tiling.plan import TilePlan
from dinotile.tiling.seams import border_ratio

from ..figures import interval
from .classifier import CELL, TextureClassifier, cell_labels

LEAST = 12  # cells of an object that a tile must hold to count for agreement
BLUR = 9  # px, over which textures are averaged before outlines are compared
SHARE = 0.35  # of the way from the ground's brightness to the objects' that makes an object: their textures have lights
RIM = 2  # px along outlines that do not count for sharpness


@dataclass(frozen=True)
class Scores:
    """accuracy: share of the objects' area whose texture is the object's own. follows: share of the area, where the shown
    picture has an object of another texture, that has that one (nan where DINO is shown nothing else). agreement: share of
    the votes of tiles on their part of an object, by area, that name the object's most frequent texture. sharpness: mean
    gradient inside objects beyond the flat picture's, over the true picture's. colour: mean absolute difference to the flat
    picture after averaging over 32 px, in 1/255. seams: step across tile borders over the step elsewhere,
    over the same of the true picture: above 1 borders show, below 1 they are softer than what they cross.
    outline: overlap over union of the objects' area, the true one and that of the picture, seen without its textures. blank:
    share of the objects' area on which the judge sees no texture.
    """

    accuracy: float
    follows: float
    agreement: float
    sharpness: float
    colour: float
    seams: float
    outline: float
    blank: float


@torch.no_grad()
def measure(
    pixels: Tensor, scene: world.Scene, plan: TilePlan, judge: TextureClassifier, *, shown: world.Scene | None = None
) -> Scores:
    """pixels: [1, 3, side, side]. plan: the tiles that agreement and seams are counted on, also for untiled pictures.
    shown: the scene that DINO saw, where it is another one."""
    share, own = cell_labels(scene)
    area = share * ((own != world.GROUND) & (share > 0.5))
    true, flat = (torch.from_numpy(picture).permute(2, 0, 1)[None] for picture in (scene.true(), scene.flat()))
    named = judge(as_strong(pixels, flat, scene).clamp(0, 1))[0].argmax(0)
    inside = _without_rim(torch.from_numpy(scene.labels()))
    sharp, least, most = (_gradient(picture, inside) for picture in (pixels, flat, true))
    return Scores(
        accuracy=_share(named == own, area),
        follows=math.nan if shown is None else _follows(named, own, area, shown),
        agreement=agreement(named, scene, plan),
        sharpness=(sharp - least) / (most - least),
        colour=float((avg_pool2d(pixels, 32) - avg_pool2d(flat, 32)).abs().mean() * 255),
        seams=border_ratio(pixels, plan) / border_ratio(true, plan),
        outline=outline(pixels, scene),
        blank=_share(named == world.GROUND, area),
    )


def as_strong(pixels: Tensor, flat: Tensor, scene: world.Scene) -> Tensor:
    """Pixels with textures as strong as those that the judge learned: fainter ones are enlarged, and all else that is not in
    the flat picture with them."""
    return pixels if scene.contrast == world.CONTRAST else flat + world.CONTRAST / scene.contrast * (pixels - flat)


def outline(pixels: Tensor, scene: world.Scene) -> float:
    """Overlap over union of where the scene has objects and where the picture is ``SHARE`` darker than ground."""
    ground = torch.from_numpy(replace(scene, things=()).flat()).mean(-1)  # [side, side]
    objects = sum(sum(thing.colour) / 3 for thing in scene.things) / len(scene.things)
    soft = avg_pool2d(pixels.mean(1), BLUR, 1, BLUR // 2, count_include_pad=False)[0]
    found, true = (
        soft < ground * (1 - SHARE * (1 - objects / scene.ground)),
        torch.from_numpy(scene.labels() != world.GROUND),
    )
    return float((found & true).sum() / (found | true).sum())


def agreement(named: Tensor, scene: world.Scene, plan: TilePlan) -> float:
    """named: the texture of every cell. Each tile gives every object that it shows one texture, its most frequent; plain
    ground is none and agrees with nothing."""
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
            counted += sum(totals.values())
            totals.pop(world.GROUND, None)
            agreed += max(totals.values(), default=0)
    return agreed / counted if counted else math.nan


def summary(scores: Sequence[Sequence[Scores]]) -> dict[str, tuple[float, float]]:
    """Mean and half the width of its 95 % interval: of every picture's mean over seeds, Student's t over pictures."""
    found = {}
    for field in fields(Scores):
        values = torch.tensor([[getattr(score, field.name) for score in one] for one in scores], dtype=torch.float64)
        values = values.nanmean(1)
        found[field.name] = interval(values[~values.isnan()])
    return found


def difference(first: Sequence[Sequence[Scores]], second: Sequence[Sequence[Scores]]) -> tuple[float, float]:
    """Right texture of the first less that of the second, of the same pictures and seeds: mean and half the width of its 95 %
    interval over pictures."""
    mine, theirs = (torch.tensor([[score.accuracy for score in one] for one in scores]) for scores in (first, second))
    return interval((mine - theirs).double().mean(1))


def _share(right: Tensor, area: Tensor) -> float:
    return float((area * right).sum() / area.sum()) if area.any() else math.nan


def _follows(named: Tensor, own: Tensor, area: Tensor, shown: world.Scene) -> float:
    share, theirs = cell_labels(shown)
    differs = (theirs != own) & (theirs != world.GROUND) & (share > 0.5)
    return _share(named == theirs, area * differs)


def _without_rim(labels: Tensor) -> Tensor:
    """Where all labels within RIM px are the same object's, [1, 1, side, side]."""
    kinds = labels[None, None].float()
    most, least = (sign * max_pool2d(sign * kinds, 2 * RIM + 1, stride=1, padding=RIM) for sign in (1, -1))
    return (most == least) & (kinds != world.GROUND)


def _gradient(pixels: Tensor, inside: Tensor) -> float:
    """Mean absolute difference of vertical and horizontal neighbours inside the objects."""
    down, right = (pixels.diff(dim=dim).abs().mean(1, keepdim=True) for dim in (2, 3))
    return float(down[inside[:, :, 1:]].mean() + right[inside[..., 1:]].mean())
