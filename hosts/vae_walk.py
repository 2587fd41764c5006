"""A VAE over a picture whose feature maps are too large to be made at once: a strip of rows at a time, and exact.

Tiles that are blended differ from the whole, because two layers of FLUX's VAE see all of it: GroupNorm, whose mean and
variance are the whole map's, and the self-attention in the middle. So the network is walked layer by layer, not tile by tile.
A convolution's strip is made from a strip with a halo, the few rows beyond it that the kernel sees; at the picture's border
the layer pads as ever. While a map is stored, a strip at a time, the mean and variance of each channel are gathered, and the
norm that follows is told them: no map is made once more for a norm. A residual block keeps two maps, the one that it adds to,
in place, and the one between its convolutions; a map four times as large as its source, behind an upsampling, is made twice
from it where there is no room for it. The attention has one position per latent cell and runs whole. So a decode keeps 2.5
values per pixel and channel of its last layers, 10.7 GB for FLUX's VAE at 4096 x 4096 in bfloat16, where the whole takes 43 GiB.
The layers are the host's modules and are called as such, so that its casting, offloading and interrupts stay its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn

from ..files.progress import Share, part_of
from ..flux_patch.families import FLUX1
from .finite import Stage
from .memory import Memory, in_less
from .strips import Function, Made, Residual, Rolling, Rows, Stored, Strips, Sum
from .wide_attention import WideAttention, bytes_of_parts

AREA, AREA_OF_CACHE = 1 << 18, 1 << 16  # positions per strip: enough for a GPU; few enough for a CPU's cache
ROWS = 16  # of a strip at least, however wide: halos are made twice, unless they are kept from strip to strip (TAESD)
LOWER, LOWEST = 4, 3  # times, where there is little room; and how often after memory ended
AT_ONCE = 4096  # values per position of a strip: some eight maps of 512 channels, a block's and what is in between

Step = Callable[[Strips, Rows], Rows]


@dataclass(frozen=True)
class Need:
    """Values that lie whole at a time: ``attention``, per latent cell, and per pixel of the picture ``lean``, the maps that are
    kept, and ``roomy``, with those besides whose keeping saves time."""

    attention: float = 0.0
    lean: float = 0.0
    roomy: float = 0.0


@dataclass(frozen=True)
class Network:
    """One half of a VAE."""

    steps: Sequence[Step]
    need: Need = Need()

    def between(self, before: Iterable[Step], after: Iterable[Step] = ()) -> Network:
        return replace(self, steps=[*before, *self.steps, *after])

    def plan(self, size: Sequence[int], dtype: torch.dtype, *, device: torch.device, free: int) -> tuple[Strips, int]:
        """How to run on a picture of that ``size``, pixels, and the bytes of ``device`` that it takes: no more than are
        ``free``, with upsampled maps made twice, then in lower strips, then with maps in the CPU's memory, as need be."""
        area = AREA_OF_CACHE if device.type == "cpu" else AREA
        high = Strips(device, device, max(area, ROWS * size[-1]))
        low = replace(high, area=high.area // LOWER)
        ways = (
            (replace(high, roomy=True), self.need.roomy),
            (high, self.need.lean),
            (low, self.need.lean),
            (replace(low, keep=torch.device("cpu")), 0.0),
        )
        cells = prod(side // FLUX1.cell for side in size)
        attention = self.need.attention * cells * dtype.itemsize + bytes_of_parts(cells, dtype)
        plans = [
            (strips, int(max(attention, dtype.itemsize * (values * prod(size) + AT_ONCE * strips.area))))
            for strips, values in ways
        ]
        return next((plan for plan in plans if plan[1] <= free), plans[-1])

    def run(
        self,
        canvas: Tensor,
        out: Tensor,
        strips: Strips,
        *,
        stage: Stage = "decode",
        memory: Memory | None = None,
        told: Share | None = None,
    ) -> Tensor:
        """On ``canvas`` [B, C, H, W], one picture at a time, into ``out``; where the device's memory does not suffice after
        all, once more with maps in the CPU's, then in lower strips (``in_less``). told: by the layers, each as long as its map
        is large."""
        lean = Leaner(strips)
        for number, (image, place) in enumerate(zip(canvas.split(1), out.split(1), strict=True)):
            walk = partial(self._walk, image, place, lean, part_of(told, number, len(canvas)))
            in_less(walk, stage=stage, ways=lean.ways, memory=memory or Memory(strips.device))
        return out

    def _walk(self, image: Tensor, out: Tensor, lean: Leaner, told: Share | None = None) -> None:
        strips, done = lean.strips, self.shares()
        rows: Rows = Stored(image, strips.device)
        for step, share in zip(self.steps, done, strict=True):
            rows = step(strips, rows)
            if told is not None:
                told(share)
        strips.write(rows, out)
        if told is not None:
            told(1.0)

    def shares(self) -> list[float]:
        """Of all positions of all layers' maps, those that are done after each step; the last map is written behind them."""
        sides = list(accumulate((getattr(step, "scale", 1.0) for step in self.steps), mul, initial=1.0))
        areas = [side * side for side in sides]
        return [done / sum(areas) for done in accumulate(areas)][: len(self.steps)]


class Leaner:
    """Strips of a run that take less wherever memory has ended: ``ways`` of ``in_less``."""

    def __init__(self, strips: Strips) -> None:
        self.strips, self.ways = strips, self._leaner()

    def _leaner(self) -> Iterator[str]:
        if self.strips.keep != torch.device("cpu"):
            self.strips = replace(self.strips, keep=torch.device("cpu"), roomy=False)
            yield "its maps in the CPU's memory"
        for _ in range(LOWEST):
            self.strips = replace(self.strips, area=max(1, self.strips.area // LOWER))
            yield "lower strips"


Level = tuple[Iterable[nn.Module], nn.Module | None]  # residual blocks, and what changes the size behind them


def decoder(first: Any, middle: Iterable[Any], levels: Iterable[Level], norm: nn.Module, last: Any) -> Network:
    """FLUX's, of the layers that the hosts name ``conv_in`` and so on. middle: block, attention, block."""
    steps = [local(first), *_middle(*middle)]
    for blocks, upsampling in levels:
        steps += [resnet(block) for block in blocks]
        if upsampling is not None:
            steps += [local(upsampling, up=2), roomily]
    return Network([*steps, normed(norm), local(last)], _need(last.in_channels, 2.5, 4.0))


def encoder(first: Any, levels: Iterable[Level], middle: Iterable[Any], norm: nn.Module, last: Any) -> Network:
    steps = [local(first)]
    for blocks, downsampling in levels:
        steps += [resnet(block) for block in blocks]
        if downsampling is not None:
            steps += [local(downsampling), kept]
    steps += [*_middle(*middle), normed(norm), local(last)]
    return Network(steps, _need(first.out_channels, 2.25, 2.25))


def chain(modules: Sequence[nn.Module], *, width: int) -> Network:
    """TAESD's: modules of at most ``width`` channels without norm or attention. Kept are maps where the size changes, but for
    the largest of them; elsewhere no row is made twice for the halo of the next module."""
    growing = [module for module in modules if isinstance(module, nn.Upsample)]
    shrinking = [module for module in modules if isinstance(module, nn.Conv2d) and module.stride[0] > 1]
    largest = [*growing[-1:], *shrinking[:1]]
    steps: list[Step] = []
    for module in modules:
        keeps = rolling if module in largest else laid
        if module in growing:
            steps += [keeps, local(module, up=2)]
        elif module in shrinking:
            steps += [local(module), keeps]
        else:
            steps += [
                residual(module) if isinstance(getattr(module, "conv", None), nn.Sequential) else local(module),
                rolling,
            ]
    return Network(steps, Need(0.0, 0.125 * width, 0.125 * width))


def _need(width: int, lean: float, roomy: float) -> Need:
    """width: channels of the maps at the picture's size; the attention's have four times as many, and there are ten of them."""
    return Need(40 * width, lean * width, roomy * width)


def _middle(before: Any, attention: nn.Module, after: Any) -> list[Step]:
    return [resnet(before), whole(attention), resnet(after)]


def pointwise(function: Function) -> Step:
    return lambda strips, source: Made(source, function)


@dataclass(frozen=True)
class Local:
    """A step whose rows are ``Made`` where they are asked for."""

    function: Function
    halo: int
    up: int
    down: int

    @property
    def scale(self) -> float:
        """Of a side."""
        return self.up / self.down

    def __call__(self, strips: Strips, source: Rows) -> Made:
        return Made(source, self.function, self.halo, self.up, self.down)


def local(module: nn.Module, *, up: int = 1) -> Step:
    """A module without norm or attention. Its halo and its stride are its convolutions'."""
    convolutions: list[Any] = [part for part in module.modules() if isinstance(part, nn.Conv2d)]
    down = prod(part.stride[0] for part in convolutions)
    halo = sum(part.kernel_size[0] // 2 for part in convolutions)
    return Local(module, -(-halo // down) * down, up, down)


def residual(block: Any) -> Step:
    """A block of TAESD's: 3 x 3 convolutions ``conv`` with activations between, ``skip`` beside them, ``fuse`` after both."""
    parts: list[nn.Sequential] = []
    for module in block.conv:
        if isinstance(module, nn.Conv2d):
            parts.append(nn.Sequential())
        parts[-1].append(module)
    return lambda strips, source: Residual(source, parts, shortcut=block.skip, last=block.fuse)


def kept(strips: Strips, source: Rows) -> Stored:
    return source if isinstance(source, Stored) else strips.store(source)[0]


def laid(strips: Strips, source: Rows) -> Stored:
    """``kept`` where no norm follows."""
    return strips.store(source, measured=False)[0]


def rolling(strips: Strips, source: Rows) -> Rolling:
    return Rolling(source)


def roomily(strips: Strips, source: Rows) -> Rows:
    return kept(strips, source) if strips.roomy else source


def normed(norm: nn.Module) -> Step:
    return lambda strips, source: Made(source, strips.normed(source, norm))


def whole(module: nn.Module) -> Step:
    """A module that sees all positions, such as attention."""

    def step(strips: Strips, source: Rows) -> Stored:
        with WideAttention():
            out = module(kept(strips, source).map.to(strips.device))
        return Stored(out.to(strips.keep), strips.device)

    return step


def resnet(block: Any) -> Step:
    """A block of ``norm1``, ``conv1``, ``norm2`` and ``conv2``, added to its input or to what a 1 x 1 convolution, which the
    hosts call ``nin_shortcut`` and ``conv_shortcut``, makes of it."""
    shortcut: Any = getattr(block, "nin_shortcut", None) or getattr(block, "conv_shortcut", None)

    def step(strips: Strips, source: Rows) -> Stored:
        source = source if shortcut else kept(strips, source)
        first = strips.normed(source, block.norm1)
        if shortcut:
            both = Made(source, lambda x: torch.cat((shortcut(x), block.conv1(first(x))), dim=1), halo=1)
            base, between = strips.store(both, split=(shortcut.out_channels, block.conv1.out_channels))
        else:
            base, (between,) = kept(strips, source), strips.store(Made(source, lambda x: block.conv1(first(x)), halo=1))
        second = strips.normed(between, block.norm2)
        added = Sum(base, Made(between, lambda x: block.conv2(second(x)), halo=1))
        return strips.store(added, into=base.map)[0]

    return step
