"""Joint tiled Euler sampling of a flow model: every step moves one canvas, through all of its tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..tiling.plan import Box, TilePlan
from ..tiling.windows import tile_windows, window


@dataclass(frozen=True)
class TileRow:
    """One row of a batch of tiles: the picture it is cut from and its place there, in latent cells."""

    image: int
    box: Box


LONGEST_SCHEDULE = 1e6  # steps; noise levels below one in a million change no picture, and some underflow
Velocity = Callable[[Tensor, float, Sequence[TileRow]], Tensor]


def flow_sigmas(steps: int, *, strength: float, tokens: int | None = None) -> list[float]:
    """The noise levels of ``steps`` model evaluations, from about ``strength`` down to 0: ``steps + 1`` numbers.

    They are the end of a longer schedule of ``int(steps / strength)`` steps, as in ComfyUI's *denoise*. ``tokens``
    (FLUX.1 dev: those of one tile) shifts the schedule by ``t -> e^mu / (e^mu + 1/t - 1)`` with ``mu`` linear from 0.5
    at 256 tokens to 1.15 at 4096 (arXiv 2403.03206, section 5.3.2, with FLUX's numbers); without it the levels are
    evenly spaced.
    """
    if strength <= 0:
        return [0.0]
    total = int(min(steps / strength, LONGEST_SCHEDULE))
    levels = [step / total for step in range(steps, -1, -1)]
    if tokens is None:
        return levels
    factor = math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))
    return [factor / (factor + 1 / t - 1) if t > 0 else 0.0 for t in levels]


@torch.no_grad()
def sample(
    velocity: Velocity,
    latents: Tensor,
    *,
    noise: Tensor,
    sigmas: Sequence[float],
    plan: TilePlan,
    tile_batch: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Bring ``latents`` [B,C,h,w] plus noise back to a clean canvas, all tiles together at each step.

    ``velocity(x, sigma, rows)`` is the model on tiles [N,C,th,tw]; each tile's clean estimate ``x - sigma * v`` is
    weighted with its window, the sum is the canvas' estimate, and Euler moves the canvas towards it. ``plan`` is in
    latent cells. ``tile_batch`` tiles share a model call and do not change the result. ``progress(done, total)`` counts
    calls.
    """
    if plan.height != latents.shape[-2] or plan.width != latents.shape[-1]:
        raise ValueError(
            f"the plan covers {plan.width} x {plan.height} cells, the latents have "
            f"{latents.shape[-1]} x {latents.shape[-2]}: plan the latents' own canvas"
        )
    images = range(latents.shape[0])
    rows = [TileRow(image, box) for image in images for box in plan.boxes]
    windows = [window(pair).to(latents) for pair in tile_windows(plan)] * len(images)  # each [th, tw]
    total = (len(sigmas) - 1) * -(-len(rows) // tile_batch)
    done = 0
    x = sigmas[0] * noise + (1 - sigmas[0]) * latents
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        clean = torch.zeros_like(x)
        for start in range(0, len(rows), tile_batch):
            part = rows[start : start + tile_batch]
            tiles = torch.stack([_cut(x, row) for row in part])  # [N, C, th, tw]
            estimates = tiles - sigma * velocity(tiles, sigma, part).to(tiles)
            for row, weight, estimate in zip(part, windows[start:], estimates, strict=False):
                _cut(clean, row).add_(weight * estimate)
            done += 1
            if progress is not None:
                progress(done, total)
        x = x + (following - sigma) * (x - clean) / sigma
    return x


def _cut(canvas: Tensor, row: TileRow) -> Tensor:
    box = row.box
    return canvas[row.image, :, box.top : box.bottom, box.left : box.right]
