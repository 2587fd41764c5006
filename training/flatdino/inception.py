"""Inception v3 as FID is reported with: the network of 2015 that TensorFlow shipped, to its 2048 numbers of a picture.

Its weights come as a PyTorch pickle, pt_inception-2015-12-05-6726825d.pth, which is converted to .safetensors once
(docs/flatdino.md).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...files.errors import printable
from ...files.weights import check_finite, check_floating, read_weights

SIDE, WIDTH = 299, 2048  # px of what it sees; numbers that it makes
CLASSES = 1008  # of the network's last layer, which is not used; later Inceptions have 1000
Step = tuple[int, int, int]  # channels, rows and columns of a convolution's kernel
Ways = tuple[Step, ...]  # side by side, whose channels are joined
Branch = tuple[str, tuple[Ways, ...]]  # its name, and its convolutions one after the other

STEM: tuple[tuple[str, Step, int, int], ...] = (  # convolutions with stride and padding
    ("Conv2d_1a_3x3", (32, 3, 3), 2, 0),
    ("Conv2d_2a_3x3", (32, 3, 3), 1, 0),
    ("Conv2d_2b_3x3", (64, 3, 3), 1, 1),
    ("Conv2d_3b_1x1", (80, 1, 1), 1, 0),
    ("Conv2d_4a_3x3", (192, 3, 3), 1, 0),
)
STEM_POOLED = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")  # after which the largest of 3 x 3 are taken


def _chain(*steps: Step) -> tuple[Ways, ...]:
    return tuple((step,) for step in steps)


def _small(pooled: int) -> tuple[Branch, ...]:
    return (
        ("branch1x1", _chain((64, 1, 1))),
        ("branch5x5", _chain((48, 1, 1), (64, 5, 5))),
        ("branch3x3dbl", _chain((64, 1, 1), (96, 3, 3), (96, 3, 3))),
        ("branch_pool", _chain((pooled, 1, 1))),
    )


def _long(inner: int) -> tuple[Branch, ...]:
    row, column = (inner, 1, 7), (inner, 7, 1)
    return (
        ("branch1x1", _chain((192, 1, 1))),
        ("branch7x7", _chain((inner, 1, 1), row, (192, 7, 1))),
        ("branch7x7dbl", _chain((inner, 1, 1), column, row, column, (192, 1, 7))),
        ("branch_pool", _chain((192, 1, 1))),
    )


FORK = ((384, 1, 3), (384, 3, 1))
WIDE: tuple[Branch, ...] = (
    ("branch1x1", _chain((320, 1, 1))),
    ("branch3x3", (*_chain((384, 1, 1)), FORK)),
    ("branch3x3dbl", (*_chain((448, 1, 1), (384, 3, 3)), FORK)),
    ("branch_pool", _chain((192, 1, 1))),
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _small(32),
    "Mixed_5c": _small(64),
    "Mixed_5d": _small(64),
    "Mixed_6a": (
        ("branch3x3", _chain((384, 3, 3))),
        ("branch3x3dbl", _chain((64, 1, 1), (96, 3, 3), (96, 3, 3))),
    ),
    "Mixed_6b": _long(128),
    "Mixed_6c": _long(160),
    "Mixed_6d": _long(160),
    "Mixed_6e": _long(192),
    "Mixed_7a": (
        ("branch3x3", _chain((192, 1, 1), (320, 3, 3))),
        ("branch7x7x3", _chain((192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3))),
    ),
    "Mixed_7b": WIDE,
    "Mixed_7c": WIDE,
}
REDUCTIONS = ("Mixed_6a", "Mixed_7a")  # their branches' last convolutions have stride 2, as has the pooling beside them
LARGEST = "Mixed_7c"  # its pooling takes the largest, where all others average: so the weights were made


class Convolution(nn.Module):
    """Without bias, then normalised by what was counted in training, then ReLU."""

    def __init__(self, channels: int, step: Step, *, stride: int = 1, padding: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, step[0], step[1:], stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(step[0], eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Block(nn.Module):
    """Branches side by side, whose channels are joined. The submodules' names are those of the file."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.reduction, self.largest, self.paths = name in REDUCTIONS, name == LARGEST, []
        for branch, steps in BLOCKS[name]:
            width, path = channels, []
            for number, ways in enumerate(steps, start=1):
                strided = self.reduction and number == len(steps)
                own = f"{branch}_{number}" if len(steps) > 1 else branch
                names = [own] if len(ways) == 1 else [f"{own}a", f"{own}b"]
                for each, way in zip(names, ways, strict=True):
                    padding = (0, 0) if strided else (way[1] // 2, way[2] // 2)
                    self.add_module(each, Convolution(width, way, stride=1 + strided, padding=padding))
                width = sum(way[0] for way in ways)
                path.append(names)
            self.paths.append((branch, path, width))
        self.channels = sum(width for *_, width in self.paths) + (channels if self.reduction else 0)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for branch, path, _ in self.paths:
            y = self._pooled(x) if branch == "branch_pool" else x
            for names in path:
                y = torch.cat([self.get_submodule(name)(y) for name in names], dim=1)
            found.append(y)
        return torch.cat([*found, F.max_pool2d(x, 3, stride=2)] if self.reduction else found, dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.largest:
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class Inception(nn.Module):
    """Pictures [B, 3, H, W] in 0..1, taken in 256 levels, to features [B, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for name, step, stride, padding in STEM:
            self.add_module(name, Convolution(channels, step, stride=stride, padding=(padding, padding)))
            channels = step[0]
        for name in BLOCKS:
            block = Block(name, channels)
            self.add_module(name, block)
            channels = block.channels

    def forward(self, pixels: Tensor) -> Tensor:
        x = (resized((pixels.float() * 255).round(), SIDE) - 128) / 128
        for name, *_ in STEM:
            x = self.get_submodule(name)(x)
            x = F.max_pool2d(x, 3, stride=2) if name in STEM_POOLED else x
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def resized(pixels: Tensor, side: int) -> Tensor:
    """[B, C, H, W], smaller or larger, to [B, C, side, side] as TensorFlow 1 did it: bilinear, where pixel i lies at
    i x length / side of the source, and without antialiasing. FIDs that are reported are of pictures that were resized so."""
    for axis in (2, 3):
        length = pixels.shape[axis]
        places = torch.arange(side, device=pixels.device) * (length / side)
        low = places.long().clamp(max=length - 1)
        share = (places - low).view((-1, 1) if axis == 2 else (-1,))
        near, far = (pixels.index_select(axis, index) for index in (low, (low + 1).clamp(max=length - 1)))
        pixels = near + (far - near) * share
    return pixels


def load_inception(path: str | Path, *, device: torch.device | str = "cpu") -> Inception:
    """From a .safetensors file with the tensors' own names, float32; ValueError in one sentence for any other file."""
    path = Path(path)
    tensors, _ = read_weights(path)
    with torch.device("meta"), torch.inference_mode(False):
        model = Inception()
    wanted = {name: tuple(each.shape) for name, each in model.state_dict().items() if each.ndim}
    needed = {**wanted, "fc.weight": (CLASSES, WIDTH)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    odd = [name for name, shape in needed.items() if shapes.get(name) != shape]
    if odd:
        got = f"has shape {list(shapes[odd[0]])}" if odd[0] in shapes else "is missing"
        more = f", and {len(odd) - 1} more differ" if len(odd) > 1 else ""
        raise ValueError(
            f"{printable(path.name)} is not the Inception of FID ({odd[0]} {got}, needed is {list(needed[odd[0]])}{more}; "
            "torchvision's and timm's are others): convert pt_inception-2015-12-05-6726825d.pth as docs/flatdino.md says"
        )
    own = {name: tensors[name] for name in wanted}
    check_floating(own, name=path.name)
    check_finite(own, name=path.name)
    weights = {name: tensor.float().clone() for name, tensor in own.items()}
    counts = {name: torch.tensor(0) for name, each in model.state_dict().items() if not each.ndim}  # of batches; unused
    model.load_state_dict({**weights, **counts}, assign=True)
    return model.to(device).requires_grad_(False).eval()
