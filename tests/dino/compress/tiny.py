"""Small FlatDINOs of the real classes, and patches that they can learn."""

import torch
from torch import Tensor

from dinotile.dino.compress.config import FlatConfig
from dinotile.dino.compress.model import FlatDino, new_flat

GRID = (4, 3)


def tiny_config(**changes) -> FlatConfig:
    values = {"dino": "tiny-v2", "width": 24, "how": "4", "grid": GRID, "tokens": 4, "features": 3}
    return FlatConfig(**{**values, "encoder": "n", "decoder": "n", "half": True, **changes})


def tiny_flat(*, seed: int = 0, **changes) -> FlatDino:
    return new_flat(tiny_config(**changes), seed=seed).eval()


def quantised(**changes) -> FlatDino:
    return tiny_flat(levels=(5, 3, 4), **changes)


def patches(count: int = 5, *, seed: int = 0, width: int = 24) -> Tensor:
    """Of three causes a picture: [count, 4, 3, width], about unit scale."""
    generator = torch.Generator().manual_seed(7)
    basis = torch.randn(3, *GRID, width, generator=generator)
    causes = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return torch.einsum("bc,chwd->bhwd", causes, basis) / 3**0.5
