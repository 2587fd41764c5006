"""DINO's patches of training pictures by number: stored ones, or encoded when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...dino.cache import FeatureCache
from ...dino.compress.config import FlatConfig
from ...dino.encode import DinoEncoder, EncodeSettings
from ...files.errors import printable
from ...files.pixels import resize
from ..core.random import generator_for
from ..data.pictures import decode, made_by
from ..data.sample import Skipped, Unusable
from ..data.sources import Entry, find_entries
from ..data.stored import stored_features

LEAST_SHARE = 0.3  # of a picture's square that a training crop shows
TOGETHER = 16  # pictures that are read at once


@dataclass(frozen=True)
class Made:
    """What made the patches of a source. encoder: the fingerprint of its weights, empty where nobody says."""

    dino: str
    how: str
    width: int
    grid: tuple[int, int]
    encoder: str = ""
    inner: str = ""


class Patches(ABC):
    """Random access to the patches of pictures; what cannot be used is None, and counted by reason.

    made: of the first picture that can be used; all others have to be alike.
    """

    made: Made

    def __init__(self, path: Sequence[str | Path]) -> None:
        self.entries = find_entries(path)
        self.names = [entry.name for entry in self.entries]
        self._unusable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def skipped(self) -> Skipped:
        """What has been found unusable so far."""
        return Skipped(self._unusable.values())

    def check_count(self, usable: int) -> None:
        """ValueError where fewer than two pictures could be used."""
        if usable < 2:
            why = f" ({self.skipped})" if self.skipped else ""
            raise ValueError(f"{usable} pictures can be used, at least 2 are needed{why}: give more pictures")

    @abstractmethod
    def batch(self, indices: Sequence[int], draws: Sequence[Sequence[float]] | None = None) -> list[Tensor | None]:
        """[layers, h, w, D], float32 on the CPU, of each picture; the compressed layer first. draws: four numbers in 0..1 each,
        by which a picture that is encoded now is cropped and mirrored; None: its middle. Raises ValueError for features of
        another encoder than ``made``."""
        ...

    def whole(self, indices: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        """All of these pictures that can be used, some at a time: their numbers, and [B, layers, h, w, D]."""
        for start in range(0, len(indices), TOGETHER):
            part = list(indices[start : start + TOGETHER])
            found = [(at, patches) for at, patches in zip(part, self.batch(part), strict=True) if patches is not None]
            if found:
                yield [at for at, _ in found], torch.stack([patches for _, patches in found])

    def check(self, config: FlatConfig, name: str) -> None:
        """ValueError where a FlatDINO is not made for these patches."""
        made = self.made
        config.check(dino=made.dino, how=made.how, width=made.width, grid=made.grid, name=name)

    def _first(self) -> Tensor:
        """Of the first picture that can be used; ValueError where there is none."""
        for index in range(len(self)):
            if (patches := self.batch([index])[0]) is not None:
                return patches
        raise ValueError(f"none of the {len(self)} samples can be used: {self.skipped}; check the data")


class StoredPatches(Patches):
    """Features that `dinotile features` wrote, or plain arrays of an encoder that ``encoder`` names ("dinov3-large last").

    memory: bytes in which they are kept once they have been read.
    """

    def __init__(self, path: Sequence[str | Path], *, family: str, encoder: str = "", memory: int = 2**31) -> None:
        super().__init__(path)
        self.family, self.plain = family, made_by(encoder, needed=None) if encoder else None
        self.cache = FeatureCache(entries=len(self), max_bytes=memory)
        self._made: Made | None = None
        self._first()
        assert self._made is not None
        self.made = self._made

    def batch(self, indices: Sequence[int], draws: Sequence[Sequence[float]] | None = None) -> list[Tensor | None]:
        return [self._patches(index) for index in indices]

    def _patches(self, index: int) -> Tensor | None:
        if index in self._unusable:
            return None
        known = self.cache.get(str(index))
        if known is None:
            try:
                known = self._read(self.entries[index])
            except Unusable as reason:
                self._unusable[index] = str(reason)
                return None
            self.cache.put(str(index), known)
        return known[0][None].float()

    def _read(self, entry: Entry) -> tuple[Tensor, Tensor]:
        patches, cls, info = stored_features(entry, self.family, plain=self.plain is not None)
        if info is not None and info.flat:
            raise ValueError(
                f"{printable(entry.name)} has features that a FlatDINO compressed, needed are whole ones: make them anew with "
                "`dinotile features`, or give --dino"
            )
        dino, how = self.plain if info is None and self.plain else (info.spec, info.how) if info else ("", "")
        grid = (patches.shape[0], patches.shape[1])
        made = Made(dino, how, patches.shape[2], grid, encoder=info.encoder if info else "")
        self._made = self._made or made
        theirs, mine = (made.dino, made.how, made.width, made.encoder), self._made
        if theirs != (mine.dino, mine.how, mine.width, mine.encoder):
            raise ValueError(
                f"{printable(entry.name)} has features of {_said(made)}, those before it are of {_said(mine)}: "
                "give features of one encoder"
            )
        if grid != mine.grid:
            raise Unusable(f"with {grid[0]} x {grid[1]} patches, not {mine.grid[0]} x {mine.grid[1]}")
        return patches.half(), cls.half()  # as they are stored


class EncodedPatches(Patches):
    """Square crops of pictures, encoded by ``encoder`` as ``layers`` say. inner: other layers, empty for none.

    side: px of a crop, in whole patches.
    """

    def __init__(
        self, path: Sequence[str | Path], encoder: DinoEncoder, *, layers: str, side: int, inner: str = ""
    ) -> None:
        super().__init__(path)
        self.encoder = encoder
        names = [layers, inner] if inner else [layers]
        self.settings = [EncodeSettings(side=side, layers=name) for name in names]
        how, *others = (settings.how(encoder.spec) for settings in self.settings)
        grid = self._first().shape[1:3]
        self.made = Made(
            encoder.spec.name,
            how,
            encoder.spec.width,
            (grid[0], grid[1]),
            encoder=encoder.fingerprint,
            inner=others[0] if others else "",
        )

    @torch.no_grad()
    def batch(self, indices: Sequence[int], draws: Sequence[Sequence[float]] | None = None) -> list[Tensor | None]:
        return self.encoded(self.crops(indices, draws))

    def crops(self, indices: Sequence[int], draws: Sequence[Sequence[float]] | None = None) -> list[Tensor | None]:
        """The squares of the pictures that ``batch`` encodes, [3, S, S] in 0..1, each of its own size."""
        found: list[Tensor | None] = []
        for place, index in enumerate(indices):
            try:
                pixels = decode(self.entries[index].picture().read())  # [3, H, W]
            except Unusable as reason:
                self._unusable[index] = str(reason)
                found.append(None)
                continue
            drawn = (0.0, 0.5, 0.5, 1.0) if draws is None else draws[place]
            found.append(square(pixels, drawn, whole=draws is None))
        return found

    @torch.no_grad()
    def encoded(self, crops: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The patches [layers, h, w, D] of squares, which DINO sees together in the one size that it is given."""
        spec, usable = self.encoder.spec, [crop for crop in crops if crop is not None]
        if not usable:
            return [None] * len(crops)
        layers = []
        for settings in self.settings:
            height, width = settings.size(1, 1, spec)
            seen = torch.cat([resize(crop[None].float(), height=height, width=width) for crop in usable])
            layers.append(self.encoder.features(seen.to(self.encoder.backbone.device), settings=settings)[0])
        patches = torch.stack(layers, dim=1).float().cpu()  # [B, layers, h, w, D]
        if not bool(patches.isfinite().all()):
            raise ValueError(f"{spec.name} gave features that are NaN or infinite: use another weights file")
        left = iter(patches)
        return [None if crop is None else next(left) for crop in crops]


def square(pixels: Tensor, draws: Sequence[float], *, whole: bool = False) -> Tensor:
    """A square of a picture [3, H, W]: the largest in its middle, or one with at least 0.3 of its area, perhaps mirrored.

    draws: for size, top, left and mirror.
    """
    height, width = pixels.shape[1:]
    most = min(height, width)
    side = most if whole else max(1, round(most * (LEAST_SHARE + (1 - LEAST_SHARE) * draws[0]) ** 0.5))
    top, left = (
        int(share * (length - side + 1) * (1 - 1e-9)) for share, length in ((draws[1], height), (draws[2], width))
    )
    crop = pixels[:, top : top + side, left : left + side]
    return crop.flip(2) if not whole and draws[3] < 0.5 else crop


def split(count: int, *, seed: int, share: float = 0.1, most: int = 256) -> tuple[list[int], list[int]]:
    """Pictures to train on, and a tenth of them, at most 256, held out; ValueError for one alone."""
    if count < 2:
        raise ValueError(
            f"the data has {count} sample, at least 2 are needed, one of them held out: give more pictures"
        )
    order = torch.randperm(count, generator=generator_for(seed, "held out")).tolist()
    held = min(most, max(1, round(share * count)))
    return sorted(order[held:]), sorted(order[:held])


def _said(made: Made) -> str:
    weights = printable(made.encoder) or "unknown"
    return f"{printable(made.dino)} layers {printable(made.how)}, {made.width} wide (weights {weights})"
