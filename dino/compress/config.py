"""What a FlatDINO is made for, and of what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class VitSize:
    """Of a transformer: channels, blocks, attention heads, channels of the gated layer."""

    width: int
    depth: int
    heads: int
    mlp: int


SIZES = {
    "p": VitSize(24, 2, 2, 48),  # not of the paper, as the next: small enough to be shipped
    "n": VitSize(64, 4, 2, 128),  # small enough to be trained on a CPU
    "t": VitSize(192, 12, 3, 768),
    "s": VitSize(384, 12, 6, 1536),
    "b": VitSize(768, 12, 12, 3072),
    "l": VitSize(1024, 24, 16, 4096),
}
GRID_SIDE = 16  # patches of a picture's side, as in the paper
MOST_TOKENS, MOST_FEATURES, MOST_SIDE, MOST_WIDTH, MOST_REGISTERS = 1024, 4096, 256, 2**14, 64
FEWEST_LEVELS, MOST_LEVELS = 3, 4096  # of a quantised number
MOST_CODES = 2**24  # of a token, so that float32 counts them


@dataclass(frozen=True)
class FlatConfig:
    """A FlatDINO (arXiv 2602.04873): patches [h, w, D] of one DINO to ``tokens`` x ``features`` numbers, and back.

    dino: the encoder's spec. width: D. how: ``FeatureMap.how`` of what is compressed. inner: that of another layer of the same
    encoder which is restored too; empty for none. grid: h, w. encoder, decoder: keys of ``SIZES``; half: with half their blocks.
    levels: values that each of a token's numbers may take (FSQ); empty: they are continuous (VAE). tanh: latents lie in -1..1.
    deterministic: a VAE without noise. nested: of the tokens the first few can be restored from alone, which FSQ learns.
    encoder_registers, decoder_registers: tokens to think with, which are thrown away.
    """

    dino: str
    width: int
    how: str
    grid: tuple[int, int]
    tokens: int
    features: int
    encoder: str
    decoder: str
    half: bool = False
    levels: tuple[int, ...] = ()
    tanh: bool = False
    deterministic: bool = False
    nested: bool = False
    encoder_registers: int = 0
    decoder_registers: int = 0
    inner: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = {"str": str, "bool": bool}.get(str(field.type))
            if kind is not None and type(getattr(self, field.name)) is not kind:
                raise ValueError(f"{field.name} is {getattr(self, field.name)!r}, it must be of type {field.type}")
        if len(self.grid) != 2:
            raise ValueError(f"grid is {self.grid}, it must be rows and columns: usually 16, 16")
        _within("tokens", self.tokens, 1, MOST_TOKENS, "usually 32")
        _within("features", self.features, 1, MOST_FEATURES, "usually 16 to 128")
        _within("width", self.width, 1, MOST_WIDTH, "that of the DINO")
        for side in self.grid:
            _within("a side of the grid", side, 1, MOST_SIDE, "usually 16 patches")
        for name in ("encoder_registers", "decoder_registers"):
            _within(name, getattr(self, name), 0, MOST_REGISTERS, "usually 0 or 4")
        for name in ("encoder", "decoder"):
            if getattr(self, name) not in SIZES:
                raise ValueError(f"{name} {getattr(self, name)!r} must be one of {', '.join(SIZES)}: usually s and b")
        for level in self.levels:
            _within("a level", level, FEWEST_LEVELS, MOST_LEVELS, "usually 8 or 5")
        if math.prod(self.levels) > MOST_CODES:
            raise ValueError(
                f"levels {self.levels} make more than {MOST_CODES:,} codes a token: take fewer or lower ones"
            )
        self._check_together()

    def _check_together(self) -> None:
        if self.levels and len(self.levels) != self.features:
            raise ValueError(f"features {self.features} must be the number of levels {self.levels}: {len(self.levels)}")
        if self.levels and (self.tanh or self.deterministic):
            raise ValueError(f"levels {self.levels} are bounded and free of noise: leave tanh and deterministic out")
        if self.nested and not self.levels:
            raise ValueError("nested needs quantised tokens (levels), and there are none: give levels or leave it out")
        if self.inner and self.inner == self.how:
            raise ValueError(f"inner {self.inner} is the layer that is compressed: name another one or none")

    @property
    def floats(self) -> int:
        """Numbers that a picture becomes."""
        return self.tokens * self.features

    @property
    def bits(self) -> float:
        """That a picture needs at least: of quantised tokens, else in half precision."""
        return self.tokens * math.log2(math.prod(self.levels)) if self.levels else 16.0 * self.floats

    @property
    def layers(self) -> tuple[str, ...]:
        """Of DINO that are restored, the compressed one first."""
        return (self.how, self.inner) if self.inner else (self.how,)

    def values(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> FlatConfig:
        """From ``values``; ValueError for what cannot be, TypeError for other names."""
        told: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**told)

    def check(self, *, dino: str, how: str, width: int, grid: tuple[int, int], name: str = "the features") -> None:
        """ValueError, with both sides named, for features that this FlatDINO is not made for."""
        mine, theirs = (self.dino, self.how, self.width, tuple(self.grid)), (dino, how, width, tuple(grid))
        if mine != theirs:
            raise ValueError(
                f"{name} are {_said(*theirs)}, this FlatDINO compresses {_said(*mine)}: give features of that encoder, layer "
                "and grid, or another FlatDINO"
            )


def _said(dino: str, how: str, width: int, grid: tuple[int, ...]) -> str:
    return f"{dino} layers {how}, {width} wide, {' x '.join(map(str, grid))} patches"


def _within(name: str, value: int, least: int, most: int, usual: str) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}, it must be a whole number from {least} to {most}: {usual}")
