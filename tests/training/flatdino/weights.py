"""Random weights of FID's Inception, in half precision, as a file has them."""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dinotile.training.flatdino.inception import CLASSES, WIDTH, Inception


@cache
def inception_weights() -> dict[str, Tensor]:
    """Loud enough that pictures differ at the end; the same on any machine."""
    draws, weights = torch.Generator().manual_seed(0), {}
    for name, tensor in Inception().state_dict().items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
        elif name.endswith("conv.weight"):
            weights[name] = torch.randn(tensor.shape, generator=draws) * (2 / tensor[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            weights[name] = 0.5 + torch.rand(tensor.shape, generator=draws)
        else:
            weights[name] = 0.2 * torch.randn(tensor.shape, generator=draws)
    last = {"fc.weight": torch.zeros(CLASSES, WIDTH), "fc.bias": torch.zeros(CLASSES)}
    return {name: tensor.half() if tensor.ndim else tensor for name, tensor in (weights | last).items()}


def write_inception(path: Path, **changes: Tensor) -> Path:
    save_file(inception_weights() | changes, path)
    return path


def picture(*, height: int = 40, width: int = 56, number: int = 0) -> Tensor:
    """[1, 3, h, w] uint8: colours that change smoothly, and noise."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    smooth = torch.stack([y, x, (1 + number) * x * y % 1])
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(number))
    return (200 * smooth + 55 * noise)[None].byte()
