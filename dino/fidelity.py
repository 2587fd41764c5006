"""How true a result is to its source in DINO's eyes, patch by patch."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WORST = 0.05  # of the patches
FLAT = 1e-3  # of the features' squared length: centred patches below it are noise, and their direction says nothing


@dataclass(frozen=True, eq=False)
class Fidelity:
    """``agreement`` with the source of a result, and beside it that of the source plainly enlarged, which is what a result
    without a model would have. Both [B, h, w]."""

    result: Tensor
    plain: Tensor

    def summary(self) -> dict[str, float]:
        """Mean, and the ``WORST`` quantile over all patches: score and worst of the result, plain_score and plain_worst."""
        named = {"": self.result, "plain_": self.plain}
        means = {f"{name}score": float(cosines.mean()) for name, cosines in named.items()}
        return means | {f"{name}worst": float(cosines.flatten().quantile(WORST)) for name, cosines in named.items()}

    def over(self, rows: Tensor, columns: Tensor) -> "Fidelity":
        """Means over regions of the pictures by weights of rows [N, h] and columns [N, w]: both [B, N]."""
        total = rows.sum(1) * columns.sum(1)
        return Fidelity(
            *(torch.einsum("bhw,nh,nw->bn", each, rows, columns) / total for each in (self.result, self.plain))
        )


def agreement(patches: Tensor, source: Tensor) -> Tensor:
    """Cosine of every patch with the same patch of its source, [B, h, w, D] each -> [B, h, w] in -1..1.

    Each picture's mean patch is taken off first: it is common to all patches, and would lift every cosine. What is flat in both
    agrees, and structure on what was flat does not.
    """
    found, wanted = (each.float() - each.float().mean((1, 2), keepdim=True) for each in (patches, source))
    flat = FLAT * source.float().square().sum(-1)  # [B, h, w], as one more channel that both have
    lengths = [(each.square().sum(-1) + flat).sqrt() for each in (found, wanted)]
    return ((found * wanted).sum(-1) + flat) / (lengths[0] * lengths[1])


def heat_map(agreement: Tensor, *, height: int, width: int) -> Tensor:
    """1 - agreement [B, h, w] as colours, [B, 3, height, width]: black where it is 0, over red and yellow to white at 1."""
    lost = (1 - agreement)[:, None].clamp(0, 1)
    lost = F.interpolate(lost, size=(height, width), mode="bilinear")
    return (3 * lost - torch.arange(3).view(3, 1, 1)).clamp(0, 1)
