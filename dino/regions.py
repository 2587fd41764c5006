"""A picture in regions: what DINO finds alike, with no names for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .feature_map import FeatureMap
from .likeness import centred

MOST = 8  # regions, of those that are chosen by ``find_regions``
SEEDS = 1024  # patches that centres can start at
ROUNDS = 30  # of k-means, at most
SETTLED = 0.001  # share of the patches: no more change their region in the last round
NEAR_BEST = 0.97
APART = 0.25


@dataclass(frozen=True, eq=False)
class Regions:
    """likeness: [k, h, w], the cosine of each patch with each region's centre, the region with most patches first.
    clearness: of each number of regions that was tried."""

    likeness: Tensor
    clearness: dict[int, float]

    @property
    def count(self) -> int:
        return len(self.likeness)

    def labels(self, height: int, width: int) -> Tensor:
        """[height, width] of 0..count - 1: the region that each place of the picture, at that size, is most like."""
        likeness = F.interpolate(self.likeness[None], size=(height, width), mode="bilinear")[0]
        return likeness.argmax(dim=0)

    def masks(self, height: int, width: int) -> Tensor:
        """[count, height, width] of 0 and 1; every place lies in one of them."""
        return F.one_hot(self.labels(height, width), self.count).movedim(2, 0).float()


def find_regions(features: FeatureMap, *, k: int = 0) -> Regions:
    """k-means of one picture's ``centred`` patches by their cosines, the same in every run.

    k: how many regions; 0 chooses: the largest of 2 to 8 whose clearness is within 3 % of the best one's, or 1 where the best is
    below .25 and nothing stands apart. Clearness is the mean simplified silhouette (Hruschka et al. 2004), ``1 - a / b`` of a
    patch's distances ``1 - cosine`` to its own centre and to the next one. Cosines are blurred over 3 x 3 patches at the end,
    which takes away specks; a region that is then nowhere the nearest is left out. Raises ValueError for several pictures, and
    for more regions than patches.
    """
    batch, height, width, _ = features.patches.shape
    if batch != 1:
        raise ValueError(
            f"the features are of {batch} pictures, regions are found in one: take one picture of the batch"
        )
    if not 0 <= k <= height * width:
        raise ValueError(f"k {k} must be from 0 to {height * width}, the number of patches: 0 chooses, usually 2 to 8")
    units = centred(features.patches)
    patches = units[0].flatten(0, 1)  # [N, D]
    tried = [k] if k else range(2, min(MOST, len(patches)) + 1)
    starts = first_centres(patches, max(tried, default=1))
    found = {count: k_means(patches, starts[:count]) for count in tried if count > 1}
    clear = {count: clearness(patches @ centres.T) for count, centres in found.items()}
    chosen = k or max((count for count in clear if clear[count] >= NEAR_BEST * max(clear.values())), default=1)
    if k == 0 and max(clear.values(), default=0.0) < APART:
        chosen = 1
    centres = found[chosen] if chosen > 1 else patches.mean(dim=0, keepdim=True)
    likeness = blurred(units[0] @ centres.T)  # [h, w, k]
    sizes = likeness.argmax(dim=2).flatten().bincount(minlength=chosen)
    order = sizes.argsort(descending=True, stable=True)[: int((sizes > 0).sum())]
    return Regions(likeness[..., order].movedim(2, 0), clear)


def first_centres(patches: Tensor, count: int) -> Tensor:
    """[count, D] of patches [N, D]: each next one is the patch, of 1024 evenly spread, that brings all patches nearest to
    their centres (greedy k-means++ of Arthur and Vassilvitskii 2007, with no chance in it)."""
    candidates = patches[:: -(-len(patches) // SEEDS)]
    apart = 1 - candidates @ patches.T  # [candidates, N]
    nearest, chosen = torch.full((len(patches),), 2.0), []
    for _ in range(count):
        chosen.append(int(torch.minimum(apart, nearest).sum(dim=1).argmin()))
        nearest = torch.minimum(nearest, apart[chosen[-1]])
    return candidates[chosen]


def k_means(patches: Tensor, centres: Tensor) -> Tensor:
    """Unit centres [k, D] of unit patches [N, D]; one that no patch is nearest to stays where it is."""
    labels = None
    for _ in range(ROUNDS):
        before, labels = labels, (patches @ centres.T).argmax(dim=1)
        if before is not None and int((labels != before).sum()) <= SETTLED * len(patches):
            break
        sums = F.one_hot(labels, len(centres)).to(patches).T @ patches
        centres = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums, dim=1), centres)
    return centres


def blurred(maps: Tensor) -> Tensor:
    """[h, w, k] with the weights 1, 2, 1 in both directions."""
    around = F.pad(maps.movedim(2, 0)[:, None], (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(around, 2, stride=1), 2, stride=1)[:, 0].movedim(0, 2)


def clearness(cosines: Tensor) -> float:
    """Mean of ``1 - a / b`` over patches, of their cosines [N, k] with the centres."""
    own, other = (1 - cosines).clamp(min=1e-6).topk(2, dim=1, largest=False).values.unbind(dim=1)
    return float((1 - own / other).mean())
