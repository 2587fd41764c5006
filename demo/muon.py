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
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                average = state.setdefault("average", torch.zeros_like(weight))
                average.mul_(group["momentum"]).add_(weight.grad)
                wanted = weight.grad + group["momentum"] * average  # Nesterov
                matrix = orthogonal(wanted.flatten(1))
                weight.sub_(matrix.view(weight.shape), alpha=0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix [rows, columns], nearly: Newton-Schulz in five rounds."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = (wide / (wide.norm() + 1e-7)).bfloat16()
    for _ in range(5):
        square = wide @ wide.T
        wide = A * wide + (B * square + C * square @ square) @ wide
    return (wide if wide.shape == matrix.shape else wide.T).float()


def optimizers(module: nn.Module, *, lr: float = 2e-3, keep: tuple[str, ...] = ()) -> list[torch.optim.Optimizer]:
    """Muon for the kernels and matrices; AdamW for vectors and for the parameters named in `keep`."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim in (2, 4) and not any(map(name.startswith, keep))]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in chosen]
    return [Muon(matrices, lr=lr), torch.optim.AdamW(others, lr=lr / 2, fused=True)]
