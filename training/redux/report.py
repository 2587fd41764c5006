"""How close fitted tokens come to Redux's, beside what no features and another picture's features reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ...files.progress import Progress, counted
from ..data.sample import Skipped
from .store import TokenStore


@dataclass(frozen=True)
class Cosines:
    """Mean cosine to Redux's tokens over the tokens of held-out pictures, for what is predicted from the picture's own
    features, from another picture's, and from none (each position's mean over the training pictures). The two ``about``
    figures are those of the differences from that mean, which all pictures share."""

    fitted: float
    permuted: float
    mean: float
    fitted_about_mean: float
    permuted_about_mean: float


@dataclass(frozen=True)
class FitReport:
    """What was fitted: pictures in all and held out, the chosen ridge strength, and the cosines of both solutions.

    epochs: of the hidden layer that is in the adapter; 0 where the ridge solution is, because the layer was not asked for
    or never got better on the pictures that choose.
    """

    pictures: int
    held_out: int
    strength: float
    ridge: Cosines
    mlp: Cosines | None = None
    epochs: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people to read."""
        head = f"{self.pictures} pictures, {self.held_out} of them held out, ridge strength {self.strength:g}"
        if self.skipped:
            head += f"; skipped: {Skipped(self.skipped)}"
        lines = [head, "held-out cosine   own    other  mean   | about the mean: own    other"]
        for name, c in (("ridge", self.ridge), ("hidden layer", self.mlp)):
            if c is not None:
                about = f"{c.fitted_about_mean:<6.3f} {c.permuted_about_mean:.3f}"
                lines.append(f"{name:<17} {c.fitted:<6.3f} {c.permuted:<6.3f} {c.mean:<6.3f} |                 {about}")
        if self.mlp is not None:
            best = f"the hidden layer after {self.epochs} epochs"
            lines.append(f"kept: {best if self.epochs else 'ridge (the hidden layer did not get better)'}")
        return lines


@torch.no_grad()
def cosines(
    predict: Callable[[Tensor], Tensor],
    store: TokenStore,
    pictures: Sequence[int],
    *,
    mean: Tensor,
    progress: Progress | None = None,
) -> Cosines:
    """Of predictions for the pictures' tokens; mean: the targets' [T, C]. Each picture's stand-in is the one before it."""
    mean = mean.float()
    rows = []
    before = predict(store.read(pictures[-1])[0])
    for index in counted(pictures, "compare", progress):
        x, y = store.read(index)
        own = predict(x)
        rows.append(
            torch.stack(
                [
                    F.cosine_similarity(a, b, dim=1).mean()
                    for a, b in ((own, y), (before, y), (mean, y), (own - mean, y - mean), (before - mean, y - mean))
                ]
            )
        )
        before = own
    return Cosines(*torch.stack(rows).mean(0).tolist())
