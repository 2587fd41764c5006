"""What a FlatDINO has to beat: codes of as many floats or bits that need no network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...dino.compress.config import FlatConfig

HALF = 16  # bits of a float
MOST_PICTURES = 4000  # that a whole picture's components are fitted to
MOST_CELLS = 20_000  # that words are fitted to
POOLS = (1, 2, 4)  # patches of a side that are averaged
MOST_WORD = 8  # bits


@dataclass(frozen=True)
class Baseline:
    """restore: patches [B, h, w, D] through the code and back. floats: of a picture, 0 for a code of whole numbers."""

    name: str
    floats: int
    bits: float
    restore: Callable[[Tensor], Tensor]


def baselines(config: FlatConfig, patches: Tensor) -> list[Baseline]:
    """Codes at most as large as this FlatDINO's, fitted to ``patches`` [n, h, w, D]: of half-precision floats as many as its
    floats (quantised: as its bits hold), of words as its bits hold."""
    floats = int(config.bits // HALF)
    found = [of_pictures(patches, floats)]
    for pool in POOLS:
        grid = tuple(math.ceil(side / pool) for side in patches.shape[1:3])
        cells = grid[0] * grid[1]
        if floats >= cells:
            found.append(of_patches(patches, pool, (grid[0], grid[1]), min(floats // cells, patches.shape[3])))
        if config.bits >= cells:
            found.append(of_words(patches, pool, (grid[0], grid[1]), int(config.bits // cells)))
    return found


def components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and the strongest principal components [count, D] of rows [n, D]; fewer where there are fewer rows."""
    mean = rows.mean(0)
    centred = (rows - mean).double()
    count = min(count, *rows.shape)
    if rows.shape[1] <= rows.shape[0]:
        _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
        return mean, axes[:, -count:].T.to(rows.dtype)
    values, ways = torch.linalg.eigh(centred @ centred.T)
    axes = (ways[:, -count:].T @ centred) / values[-count:, None].clamp(min=1e-12).sqrt()
    return mean, axes.to(rows.dtype)


def of_pictures(patches: Tensor, floats: int) -> Baseline:
    """Principal components of whole pictures: the best linear code there is, and tied to one grid."""
    mean, axes = components(patches[:MOST_PICTURES].float().flatten(1), max(1, floats))

    def restore(x: Tensor) -> Tensor:
        flat = x.flatten(1) - mean
        return (flat @ axes.T @ axes + mean).view_as(x)

    return Baseline(f"PCA of pictures, {len(axes)}", len(axes), HALF * len(axes), restore)


def of_patches(patches: Tensor, pool: int, grid: tuple[int, int], count: int) -> Baseline:
    """Averages over pool x pool patches, in so many principal components of channels; bilinear back."""
    cells = _pooled(patches.float(), grid).flatten(0, 2)
    mean, axes = components(cells, count)

    def restore(x: Tensor) -> Tensor:
        return _spread((_pooled(x, grid) - mean) @ axes.T @ axes + mean, x)

    floats = grid[0] * grid[1] * len(axes)
    name = f"{pool} x {pool} average, " if pool > 1 else ""
    return Baseline(f"{name}PCA of patches, {len(axes)}", floats, HALF * floats, restore)


def of_words(patches: Tensor, pool: int, grid: tuple[int, int], bits: int) -> Baseline:
    """Product quantisation (Jegou et al., 2011) of averages over pool x pool patches, ``bits`` for each; bilinear back."""
    cells = _pooled(patches.float(), grid).flatten(0, 2)
    few = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))[:MOST_CELLS]]
    parts = min(max(1, bits // MOST_WORD), cells.shape[1])
    word = min(MOST_WORD, bits // parts)
    books = [_book(part, 2**word) for part in few.tensor_split(parts, dim=1)]

    def restore(x: Tensor) -> Tensor:
        pieces = _pooled(x, grid).flatten(0, 2).tensor_split(parts, dim=1)
        near = [book[torch.cdist(piece, book).argmin(1)] for piece, book in zip(pieces, books, strict=True)]
        return _spread(torch.cat(near, dim=1).view(len(x), *grid, -1), x)

    name = f"{pool} x {pool} average, " if pool > 1 else ""
    return Baseline(f"{name}{parts} words of {word} bits", 0, grid[0] * grid[1] * parts * word, restore)


def _book(rows: Tensor, words: int) -> Tensor:
    """The means of k-means [words, d]; the rows themselves where there are no more of them than words."""
    if len(distinct := rows.unique(dim=0)) <= words:
        return distinct
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise ValueError('baselines need scikit-learn: pip install "dinotile[flatdino]", or leave --fit out') from error
    options: dict[str, Any] = {"random_state": 0, "n_init": 3, "batch_size": 4096}
    means = MiniBatchKMeans(words, **options).fit(rows.numpy())
    return torch.from_numpy(np.asarray(means.cluster_centers_)).float()


def _pooled(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, h, w, D] to [B, *grid, D]."""
    return F.adaptive_avg_pool2d(patches.movedim(3, 1), grid).movedim(1, 3)


def _spread(cells: Tensor, like: Tensor) -> Tensor:
    size = (like.shape[1], like.shape[2])
    return F.interpolate(cells.movedim(3, 1), size=size, mode="bilinear").movedim(1, 3)
