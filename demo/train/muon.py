"""Muon (Jordan et al. 2024): momentum whose matrix is made orthogonal, so that all its directions move equally far."""

import torch
from torch import Tensor, nn

from .speed import half

# The quintic of the paper: five rounds bring every singular value to between about 0.7 and 1.2.
A, B, C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """torch's own takes matrices only, and convolutions learn best by it: a kernel is a matrix here, [out, in * h * w]."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.mul_(0.95).add_(weight.grad)
                wanted = (weight.grad + 0.95 * average).flatten(1)  # Nesterov's step
                far = 0.2 * group["lr"] * max(wanted.shape) ** 0.5  # 0.2 per element, as AdamW's usual step
                weight.sub_(orthogonal(wanted).view(weight.shape), alpha=far)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix, nearly: Newton-Schulz in five rounds."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.mT if tall else matrix) / (matrix.norm() + 1e-7)
    wide = wide.bfloat16() if half() else wide
    for _ in range(5):
        square = wide @ wide.mT
        wide = A * wide + (B * square + C * square @ square) @ wide
    return (wide.mT if tall else wide).float()


def optimizers(
    module: nn.Module, *, lr: float, keep: tuple[str, ...] = (), slow: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Muon for matrices and kernels; AdamW for the rest and for parameters whose names begin as in ``keep``, and at a fifth of
    its rate for those that begin as in ``slow``."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    late = [p for name, p in named if name.startswith(slow)]
    named = [(name, p) for name, p in named if not name.startswith(slow)]
    matrices = [p for name, p in named if p.ndim in (2, 4) and not name.startswith(keep)]
    others = [p for name, p in named if p.ndim not in (2, 4) or name.startswith(keep)]
    groups = [{"params": others, "lr": lr / 2}, *([{"params": late, "lr": lr / 10}] if late else [])]
    return [Muon(matrices, {"lr": lr}), torch.optim.AdamW(groups, fused=True)]
