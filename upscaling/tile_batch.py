"""How many tiles share a model call, and what becomes of their estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..files.progress import Progress
from ..hosts.memory import Memory, in_less
from ..tiling.canvas import cut
from ..tiling.plan import Box, TilePlan
from ..tiling.windows import tile_windows, window


@dataclass(frozen=True)
class TileRow:
    """One row of a batch of tiles: the picture it is cut from and its place there, in latent cells."""

    image: int
    box: Box


Velocity = Callable[[Tensor, float, Sequence[TileRow]], Tensor]


@dataclass
class TileBatch:
    """How many tiles share a model call: ``most`` of one size, and fewer for the rest of a run once memory has ended."""

    most: int
    memory: Memory
    laid: TilePlan | None = None
    windows: dict[Box, Tensor] = field(default_factory=dict)

    def estimate(
        self,
        velocity: Velocity,
        x: Tensor,
        sigma: float,
        *,
        plan: TilePlan,
        told: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The clean estimate of a canvas [B, C, h, w] at a noise level, of all its tiles; told: of how many so many are done."""
        if plan != self.laid:
            self.laid, self.windows = plan, _windows(plan, x)
        clean, done = torch.zeros_like(x), 0
        for rows in _kinds(plan, images=len(x)):
            while rows:
                call = partial(self.cleaned, velocity, x, sigma, rows)
                cleaned = in_less(call, stage="sample", ways=self.fewer(len(rows)), memory=self.memory)
                for row, estimate in zip(rows, cleaned, strict=False):
                    cut(clean[row.image], row.box).add_(self.windows[row.box] * estimate)
                rows, done = rows[len(cleaned) :], done + len(cleaned)
                if told is not None:
                    told(done, plan.count * len(x))
        return clean

    def cleaned(self, velocity: Velocity, x: Tensor, sigma: float, rows: Sequence[TileRow]) -> Tensor:
        """The clean estimates [N, C, th, tw] of the first ``rows``, as many as share a call."""
        part = rows[: self.most]
        tiles = torch.stack([cut(x[row.image], row.box) for row in part])  # [N, C, th, tw]
        return tiles - sigma * velocity(tiles, sigma, part).to(tiles)

    def fewer(self, rows: int) -> Iterator[str]:
        """Half as many at a time; rows: how many there are."""
        while min(self.most, rows) > 1:
            self.most = min(self.most, rows) // 2
            yield f"{self.most} {'tile' if self.most == 1 else 'tiles'} at a time"


def telling(progress: Progress, step: int, steps: int) -> Callable[[int, int], None]:
    """Progress of all tiles of all steps, in words of this one."""

    def told(done: int, tiles: int) -> None:
        progress("sample", step * tiles + done, steps * tiles, f"step {step + 1} of {steps}, tile {done} of {tiles}")

    return told


def _kinds(plan: TilePlan, *, images: int) -> list[list[TileRow]]:
    """The tiles of all pictures, those of one size together."""
    kinds: dict[tuple[int, int], list[TileRow]] = {}
    for image in range(images):
        for box in plan.boxes:
            kinds.setdefault((box.height, box.width), []).append(TileRow(image, box))
    return list(kinds.values())


def _windows(plan: TilePlan, latents: Tensor) -> dict[Box, Tensor]:
    """The weight [h, w] of each tile, where the latents are."""
    pairs = zip(plan.boxes, tile_windows(plan), strict=True)
    return {box: window(pair).to(latents) for box, pair in pairs}


def default_tile_batch(device: torch.device, plan: TilePlan) -> int:
    """Tiles per model call: 8 on the CPU; on CUDA 1 to 4, one per GiB and 4096 tokens in half of the free memory."""
    if device.type == "cpu":
        return 8
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    per_tile = 2**30 * plan.tile_height * plan.tile_width / (4096 * plan.grid**2)
    return int(min(4, max(1, free / 2 // per_tile)))
