"""Feature maps of a picture made a strip of rows at a time, exactly: what ``vae_walk.py`` walks a VAE with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

OVERLAP = 6  # rows of a map that two strips share at most: a block's halo of three on either side
NOTHING = torch.empty(0, 0, 0, 0)
Function = Callable[[Tensor], Tensor]


class Moments(NamedTuple):
    """Mean and variance of each channel of a map, [B, C], float32."""

    mean: Tensor
    variance: Tensor


class Deviations(NamedTuple):
    """Of a strip: its positions, and of each channel the mean and the norm of the deviations from it, [B, C], float32."""

    size: int
    mean: Tensor
    norm: Tensor


class Rows(Protocol):
    """A map [B, C, height, width] of which rows can be asked for."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def area(self) -> int:
        """Positions per row, of it or of what a row of it is made of."""
        ...

    def rows(self, top: int, bottom: int) -> Tensor: ...


@dataclass(frozen=True)
class Stored:
    """A map [B, C, H, W] that lies somewhere, its rows on ``device`` where they are asked for; its moments where known."""

    map: Tensor
    device: torch.device
    moments: Moments | None = None

    @property
    def height(self) -> int:
        return self.map.shape[2]

    @property
    def width(self) -> int:
        return self.map.shape[3]

    @property
    def area(self) -> int:
        return self.width

    def rows(self, top: int, bottom: int) -> Tensor:
        return self.map[:, :, top:bottom].to(self.device)


@dataclass(frozen=True)
class Made:
    """What ``function`` makes of ``source``, ``up`` times as large or a ``down``-th of it, when it is asked for.

    halo: rows of the source that it sees on either side beyond those of which it makes the result; a multiple of ``down``.
    """

    source: Rows
    function: Function
    halo: int = 0
    up: int = 1
    down: int = 1

    @property
    def height(self) -> int:
        return self.source.height * self.up // self.down

    @property
    def width(self) -> int:
        return self.source.width * self.up // self.down

    @property
    def area(self) -> int:
        return max(self.width, self.source.area * self.down // self.up)

    def rows(self, top: int, bottom: int) -> Tensor:
        low = max(0, top * self.down // self.up - self.halo)
        high = min(self.source.height, -(-bottom * self.down // self.up) + self.halo)
        first = top - low * self.up // self.down
        return self.function(self.source.rows(low, high))[:, :, first : first + bottom - top]


class _AsLarge:
    """A map as large as its ``source``."""

    source: Rows

    @property
    def height(self) -> int:
        return self.source.height

    @property
    def width(self) -> int:
        return self.source.width

    @property
    def area(self) -> int:
        return self.source.area


class Rolling(_AsLarge):
    """``source``, whose rows are asked for from top to bottom: those that two strips share, no more than ``OVERLAP``, are made
    once, and none is kept for longer than that."""

    def __init__(self, source: Rows) -> None:
        self.source, self.last, self.bottom = source, NOTHING, 0

    def rows(self, top: int, bottom: int) -> Tensor:
        shared = self.bottom - top
        if 0 < shared <= self.last.shape[2]:
            made = torch.cat((self.last[:, :, -shared:], self.source.rows(self.bottom, bottom)), dim=2)
        else:
            made = self.source.rows(top, bottom)
        self.last, self.bottom = made[:, :, -OVERLAP:].clone(), bottom
        return made


class _Held(_AsLarge):
    """Those rows of ``source`` that were asked for last, from ``top`` on."""

    def __init__(self, source: Rows) -> None:
        self.source, self.top, self.map = source, 0, NOTHING

    def hold(self, top: int, bottom: int) -> None:
        self.top, self.map = top, self.source.rows(top, bottom)

    def rows(self, top: int, bottom: int) -> Tensor:
        return self.map[:, :, top - self.top : bottom - self.top]


class Residual(_AsLarge):
    """``last`` of the sum of ``source`` through ``convolutions`` and through ``shortcut``, from top to bottom: of the maps in
    between convolutions, which see a row on either side, no row is made twice."""

    def __init__(self, source: Rows, convolutions: Sequence[Function], *, shortcut: Function, last: Function) -> None:
        self.source, self.shortcut, self.last, self.halo = source, shortcut, last, len(convolutions)
        self.held = self.through = _Held(source)
        for convolution in convolutions:
            self.through = Rolling(Made(self.through, convolution, halo=1))

    def rows(self, top: int, bottom: int) -> Tensor:
        self.held.hold(max(0, top - self.halo), min(self.height, bottom + self.halo))
        straight = self.shortcut(self.held.rows(top, bottom))
        through = self.through.rows(top, bottom)
        self.held.map = NOTHING
        return self.last(through.add_(straight))


@dataclass(frozen=True)
class Sum(_AsLarge):
    """``made`` and ``source``; the strips of ``made`` are its own to add to."""

    source: Rows
    made: Made

    @property
    def area(self) -> int:
        return self.made.area

    def rows(self, top: int, bottom: int) -> Tensor:
        return self.made.rows(top, bottom).add_(self.source.rows(top, bottom))


@dataclass(frozen=True)
class Strips:
    """How it is done: strips of about ``area`` positions, made on ``device``; what is kept whole lies on ``keep``.

    roomy: upsampled maps are kept too, which saves making them twice.
    """

    device: torch.device
    keep: torch.device
    area: int
    roomy: bool = False

    def spans(self, source: Rows) -> Iterator[tuple[int, int]]:
        count = -(-source.height // max(1, self.area // source.area))
        edges = [source.height * number // count for number in range(count + 1)]
        yield from zip(edges[:-1], edges[1:], strict=True)

    def write(self, source: Rows, out: Tensor) -> Tensor:
        for top, bottom in self.spans(source):
            out[:, :, top:bottom] = source.rows(top, bottom)
        return out

    def store(
        self, source: Rows, *, split: Sequence[int] = (), into: Tensor | None = None, measured: bool = True
    ) -> list[Stored]:
        """The whole map, as maps of ``split`` channels where that is given; ``into``: written over this one."""
        maps: list[Tensor] = [] if into is None else [into]
        found: list[list[Deviations]] = []
        for top, bottom in self.spans(source):
            strip = source.rows(top, bottom)
            parts = strip.split(list(split) or [strip.shape[1]], dim=1)
            if not maps:
                size = (source.height, source.width)
                maps = [part.new_empty(*part.shape[:2], *size, device=self.keep) for part in parts]
            for place, part in zip(maps, parts, strict=True):
                place[:, :, top:bottom] = part
            if measured:
                found.append([_deviations(part) for part in parts])
        moments = [_moments(parts) for parts in zip(*found, strict=True)] or [None] * len(maps)
        return [Stored(place, self.device, told) for place, told in zip(maps, moments, strict=True)]

    def moments(self, source: Rows) -> Moments:
        if isinstance(source, Stored) and source.moments is not None:
            return source.moments
        return _moments([_deviations(source.rows(top, bottom)) for top, bottom in self.spans(source)])

    def normed(self, source: Rows, norm: nn.Module) -> Function:
        """GroupNorm by the moments of the whole ``source``, then SiLU."""
        mode = _WholeNorm(self.moments(source))

        def function(strip: Tensor) -> Tensor:
            with mode:
                out = norm(strip)
            if not mode.asked:
                raise TypeError(f"{type(norm).__name__} does not call torch.nn.functional.group_norm")
            return F.silu(out, inplace=True)

        return function


class _WholeNorm(TorchFunctionMode):
    """Group norms inside it take the mean and variance of the whole map instead of their input's."""

    def __init__(self, moments: Moments) -> None:
        super().__init__()
        self.moments, self.asked = moments, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.group_norm:
            self.asked = True
            return _normalised(self.moments, *args, **kwargs or {})
        return func(*args, **kwargs or {})


def _normalised(
    moments: Moments, strip: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """F.group_norm of ``strip`` [B, C, h, w], a part of the map whose ``moments`` these are; as one multiplication and sum."""
    channels = moments.mean.shape[1]
    mean, variance = (moment.unflatten(1, (num_groups, -1)) for moment in moments)  # [B, G, C/G]
    centre = mean.mean(2, keepdim=True)
    spread = (variance + (mean - centre).square()).mean(2, keepdim=True)
    scale = (spread + eps).rsqrt().expand_as(mean).flatten(1)  # [B, C]
    shift = -scale * centre.expand_as(mean).flatten(1)
    if weight is not None:
        scale, shift = scale * weight, shift * weight
    if bias is not None:
        shift = shift + bias
    scale, shift = (part.view(-1, channels, 1, 1) for part in (scale, shift))
    return torch.addcmul(shift, strip, scale, out=torch.empty_like(strip))


def _deviations(strip: Tensor) -> Deviations:
    mean = strip.mean((2, 3), dtype=torch.float32)
    apart = strip - mean[:, :, None, None]  # [B, C, h, W], float32
    return Deviations(apart[0, 0].numel(), mean, torch.linalg.vector_norm(apart, dim=(2, 3)))


def _moments(parts: Sequence[Deviations]) -> Moments:
    """Of a map, of what its strips say."""
    means = torch.stack([part.mean for part in parts])  # [strips, B, C]
    norms = torch.stack([part.norm for part in parts])
    sizes = torch.tensor([part.size for part in parts], device=means.device)[:, None, None]
    mean = (means * sizes).sum(0) / sizes.sum()
    variance = (norms.square() + sizes * (means - mean).square()).sum(0) / sizes.sum()
    return Moments(mean, variance)
