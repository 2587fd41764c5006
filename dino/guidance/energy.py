"""How a picture disagrees, in DINO's eyes, with the source that it is made from, above what can be reached at all.

What can be reached is what the autoencoder alone makes of the enlarged source: it counts as agreement, so that a picture that
has not drifted is left alone. DINO looks at the picture at the source's own size: a source says nothing of finer detail, and
agreement in it would only keep the picture soft.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PAIRS = 6  # shifts and noises, in turns; two for each estimate: a network that was trained on clean pictures has gradients that
AT_ONCE = 2  # hold for one grid of patches and no other, which their mean does not follow (arXiv 2403.12404)
NOISE = 0.03  # standard deviation, of pixels in 0..1
MARGIN = 0.004  # of cosine: the truth, which is sharper than the source, lies about .003 above what can be reached
PIECE = 728  # px per side that the encoder sees at a time: two GB of activations for a base model in float32
ENLARGED = 2.0  # times the source's size, at most, at which the encoder looks
KEPT = 512 << 20  # bytes of references, of all pictures of a batch
Features = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class View:
    """A part of the picture, in px, as the encoder is shown it: shifted, with noise, ``side`` px on its long side."""

    top: int
    left: int
    height: int
    width: int
    side: int


class DinoEnergy:
    """The sum over patches of 1 - cosine of spatially centred features, above the autoencoder's and a margin.

    features: pixels [1, 3, h, w] in 0..1 and the long side in px to encode them at -> [1, n, m, D], differentiable.
    source, reachable: [1, 3, h, w]. most_side: px that the encoder takes on its long side. patch: px.
    keep: bytes of references; more are made again.
    The picture and the source are shown to the encoder under the same shifts and noise, so that they stand at the same places.
    """

    def __init__(
        self, features: Features, *, source: Tensor, reachable: Tensor, patch: int, most_side: int, keep: int = KEPT
    ) -> None:
        self.features, self.source, self.reachable = features, source, reachable
        height, width = source.shape[-2:]
        enlarged = min(ENLARGED, max(1.0, most_side / max(height, width)))
        most = max(patch, int(PIECE / enlarged))
        self.views = [
            View(top, left, bottom - top, right - left, max(patch, round(enlarged * max(bottom - top, right - left))))
            for top, bottom in spans(height, most)
            for left, right in spans(width, most)
        ]
        self.reach = max(1, round(patch / 2 / enlarged))
        draw = torch.Generator().manual_seed(0)
        self.shifts = torch.randint(-self.reach, self.reach + 1, (PAIRS, 2), generator=draw).tolist()
        self.known: dict[tuple[View, int], tuple[Tensor, Tensor]] = {}
        self.keep, self.kept = keep, 0

    def __call__(self, picture: Tensor, *, call: int) -> tuple[Tensor, Tensor]:
        """Of a picture [1, 3, h, w] at the source's size: a scalar, and the gradient by the picture. call: counts estimates."""
        total, gradient = picture.new_zeros(()), torch.zeros_like(picture)
        for view in self.views:
            for pair in (number % PAIRS for number in range(AT_ONCE * call, AT_ONCE * (call + 1))):
                reference, floor = self._reference(view, pair)
                with torch.enable_grad():
                    leaf = picture.detach().requires_grad_()
                    above = (self._distance(leaf, view, pair, reference) - floor).relu().sum() / AT_ONCE
                if above != 0:  # also NaN, which is no agreement
                    total += above.detach()
                    gradient += torch.autograd.grad(above, leaf)[0]
        return total, gradient

    def _reference(self, view: View, pair: int) -> tuple[Tensor, Tensor]:
        """What the source's patches are under a view, and the distance from it that can be reached at each."""
        key = view, pair
        if key in self.known:
            return self.known[key]
        with torch.no_grad():
            reference = self._features(self.source, view, pair)
            found = reference, self._distance(self.reachable, view, pair, reference) + MARGIN
        size = sum(tensor.numel() * tensor.element_size() for tensor in found)
        if self.kept + size <= self.keep:
            self.known[key], self.kept = found, self.kept + size
        return found

    def _distance(self, picture: Tensor, view: View, pair: int, reference: Tensor) -> Tensor:
        return 1 - (self._features(picture, view, pair) * reference).sum(-1)  # [1, n, m]

    def _features(self, picture: Tensor, view: View, pair: int) -> Tensor:
        """Centred, of length 1: [1, n, m, D]."""
        reach, (down, right) = self.reach, self.shifts[pair]
        around = F.pad(picture, (reach,) * 4, mode="replicate")
        top, left = view.top + reach + down, view.left + reach + right
        shown = around[..., top : top + view.height, left : left + view.width]
        noise = torch.randn(shown.shape, generator=torch.Generator().manual_seed(pair)).to(shown)
        found = self.features(shown + NOISE * noise, view.side)
        return F.normalize(found - found.mean((1, 2), keepdim=True), dim=-1)


def spans(side: int, most: int) -> list[tuple[int, int]]:
    """Nearly equal parts of a side, none longer than ``most``."""
    count = -(-side // most)
    edges = [side * number // count for number in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))
