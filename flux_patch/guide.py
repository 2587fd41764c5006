"""Who gives a region of the canvas its DINO row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from ..tiling.plan import Box
from .rows import DinoRow
from .schedule import Strength
from .tokens import DinoTokens


class Guide(Protocol):
    """One run's guide. ``pictures``: how many it knows; a batch may hold a multiple of them."""

    @property
    def pictures(self) -> int: ...

    def row(self, image: int, box: Box, *, canvas: tuple[int, int]) -> DinoRow:
        """For a region in latent cells of picture ``image``, on a canvas of that height and width in latent cells."""
        ...


@dataclass(frozen=True, eq=False)
class PictureGuide:
    """Every region gets the tokens of its own place in the whole picture.

    tokens: None for the learned null. covers: height and width in latent cells that the picture has on the canvas, which may
    be padded beyond it; None for all of it.
    """

    tokens: DinoTokens | None
    strength: Strength
    covers: tuple[float, float] | None = None

    @property
    def pictures(self) -> int:
        return 1 if self.tokens is None else len(self.tokens)

    def row(self, image: int, box: Box, *, canvas: tuple[int, int]) -> DinoRow:
        height, width = self.covers or canvas
        return DinoRow(self.tokens, image, box.fractions(height, width), self.strength)


@dataclass(frozen=True, eq=False)
class PartGuide:
    """Another guide's rows for a part of its canvas that is sampled alone. box: where the part lies. canvas: height and width of
    the whole; both in latent cells."""

    guide: Guide
    box: Box
    canvas: tuple[int, int]

    @property
    def pictures(self) -> int:
        return self.guide.pictures

    def row(self, image: int, box: Box, *, canvas: tuple[int, int]) -> DinoRow:
        return self.guide.row(image, box.moved(self.box.top, self.box.left), canvas=self.canvas)


@dataclass(frozen=True, eq=False)
class NullGuide:
    """The rows of another guide with DINO's features dropped: the learned null takes their place."""

    guide: Guide

    @property
    def pictures(self) -> int:
        return 1

    def row(self, image: int, box: Box, *, canvas: tuple[int, int]) -> DinoRow:
        return replace(self.guide.row(image, box, canvas=canvas), tokens=None)
