"""Muon (Jordan et al. 2024): momentum whose matrix is made orthogonal, so that all its directions move equally far.

torch.optim.Muon does the same for matrices only; convolution kernels are matrices here too, [out, in * height * width].
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# The quintic of the paper: five rounds bring every singular value to between about 0.7 and 1.2.
A, B, C = 3.4445, -4.7750, 2.0315


class Muon(torch.optim.Optimizer):
    """`lr` is comparable with AdamW's: steps are scaled to AdamW's usual size, 0.2 per element."""

    def __init__(self, parameters: Iterable[Tensor], *, lr: float = 2e-3, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for same in _by_shape(group["params"]):
                wanted = torch.stack([self._wanted(weight, group["momentum"]) for weight in same])
                far = 0.2 * group["lr"] * max(wanted.shape[1:]) ** 0.5
                for weight, matrix in zip(same, orthogonal(wanted), strict=True):
                    weight.sub_(matrix.view(weight.shape), alpha=far)

    def _wanted(self, weight: Tensor, momentum: float) -> Tensor:
        """Nesterov's step [out, rest]; moves the average on."""
        average = self.state[weight].setdefault("average", torch.zeros_like(weight))
        average.mul_(momentum).add_(weight.grad)
        return (weight.grad + momentum * average).flatten(1)


def _by_shape(weights: list[Tensor]) -> list[list[Tensor]]:
    """Weights that have a gradient, in lists of equal shape: one product for a list is three times as fast as many."""
    lists: dict[torch.Size, list[Tensor]] = {}
    for weight in weights:
        if weight.grad is not None:
            lists.setdefault(weight.flatten(1).shape, []).append(weight)
    return list(lists.values())


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices to [n, rows, columns], nearly: Newton-Schulz in five rounds."""
    tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if tall else matrices
    wide = (wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        square = wide @ wide.mT
        polynomial = torch.baddbmm(square, square, square, beta=B, alpha=C)
        wide = torch.baddbmm(wide, polynomial, wide, beta=A)
    return (wide.mT if tall else wide).float()


def optimizers(module: nn.Module, *, lr: float = 2e-3, keep: tuple[str, ...] = ()) -> list[torch.optim.Optimizer]:
    """Muon for the kernels and matrices; AdamW for vectors and for the parameters named in `keep`."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim in (2, 4) and not any(map(name.startswith, keep))]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in chosen]
    return [Muon(matrices, lr=lr), torch.optim.AdamW(others, lr=lr / 2, fused=True)]
