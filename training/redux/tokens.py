"""Pairs to learn from: what an adapter's context layer gets for a picture, and the tokens that Redux gives it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...dino.encode import DinoEncoder, EncodeSettings
from ...dino.feature_map import FeatureMap
from ...files.progress import Progress
from ...flux_patch.adapter import AdapterConfig, DinoAdapter
from ...flux_patch.checkpoint import new_adapter
from ...flux_patch.rows import WHOLE
from ...flux_patch.tokens import DinoTokens
from ..data.pictures import decode
from ..data.sources import Entry, Unusable
from .ridge import Moments
from .store import TokenStore
from .teacher import ReduxTeacher


def passing_adapter(config: AdapterConfig) -> DinoAdapter:
    """A fresh adapter whose tokens are DINO's own: spatially scaled patches with their mean left in, and CLS."""
    adapter = new_adapter(config).module
    with torch.no_grad():
        adapter.patches.mean_share.zero_()
        kernel = adapter.patches.conv.weight.zero_()  # [D, D, 3, 3]
        kernel[:, :, 1, 1] = torch.eye(config.width)
        adapter.cls.weight.copy_(torch.eye(config.width))
    return adapter


def context_inputs(adapter: DinoAdapter, features: FeatureMap) -> Tensor:
    """What the adapter's context layer gets for a whole picture: [1 + grid^2, C], CLS first."""
    with torch.no_grad():
        tokens = adapter.project(features.to(adapter.context.weight.device))
        return adapter.context_norm(tokens.sequence(0, WHOLE, adapter.config.grid))


def context_targets(redux: Tensor, *, grid: int) -> Tensor:
    """Redux's tokens [1, n, n, C] as an adapter should give them: their mean, then grid x grid regions, row by row."""
    return DinoTokens(redux, redux.mean((1, 2))).sequence(0, WHOLE, grid)  # [1 + grid^2, C]


def fill_store(
    store: TokenStore,
    entries: Sequence[Entry],
    *,
    adapter: DinoAdapter,
    encoder: DinoEncoder,
    settings: EncodeSettings,
    teacher: ReduxTeacher,
    progress: Progress | None = None,
) -> Counter[str]:
    """Inputs and targets of every usable picture; the others are counted by reason."""
    skipped: Counter[str] = Counter()
    for number, entry in enumerate(entries, start=1):
        try:
            if entry.picture is None:
                raise Unusable("without a picture")
            pixels = decode(entry.picture.read())[None]  # [1, 3, H, W]
            targets = teacher.tokens(pixels).float().cpu()
            inputs = context_inputs(adapter, encoder.encode(pixels, settings=settings))
            store.add(inputs, context_targets(targets, grid=adapter.config.grid))
        except Unusable as reason:
            skipped[str(reason)] += 1
        if progress is not None:
            progress("encode", number, len(entries))
    return skipped


def split(count: int, *, share: float, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Pictures to fit, to choose by, and held out: a random partition, the last two about ``share`` of what there is."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held = max(2, round(share * count))
    chosen = max(1, round(share * (count - held)))
    return sorted(order[held + chosen :]), sorted(order[held : held + chosen]), sorted(order[:held])


@dataclass(frozen=True, eq=False)
class Summed:
    """Sums over pictures: the moments of all token pairs, and the mean input [T, D] and target [T, C] of each position."""

    moments: Moments
    inputs: Tensor
    targets: Tensor
    pictures: int

    def merged(self, other: Summed) -> Summed:
        total = self.pictures + other.pictures
        return Summed(
            self.moments.merged(other.moments),
            (self.inputs * self.pictures + other.inputs * other.pictures) / total,
            (self.targets * self.pictures + other.targets * other.pictures) / total,
            total,
        )


def summed(store: TokenStore, pictures: Sequence[int]) -> Summed:
    """Over some pictures of the store, one at a time."""
    (tokens, inputs), (_, outputs) = store.shapes
    moments = Moments.empty(inputs, outputs)
    x_sum, y_sum = torch.zeros(tokens, inputs).double(), torch.zeros(tokens, outputs).double()
    for index in pictures:
        x, y = store.read(index)
        moments.add(x, y)
        x_sum += x
        y_sum += y
    return Summed(moments, x_sum / len(pictures), y_sum / len(pictures), len(pictures))
