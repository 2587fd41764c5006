"""One sampling run in tiles: which there are at a noise level, how far they are, and what is left of them where memory ends."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...tiling.moving import moved, step_of
from ...tiling.plan import TilePlan, smaller_tiles
from ..memory import Memory, in_tiles, shortages

if TYPE_CHECKING:
    from .tile_run import TileRun

CropPatches = Callable[[dict, tuple[int, int, int, int], torch.device], dict]
APART = 0  # of ``most``: one conditioning in a call


class JointRun:
    """start: makes the tiles of a plan in px; those of one step are kept. crop: of a plan in px, for the run's ControlNets that
    are patches. sigmas, seed: of tiles that move at every step. relief: of ``in_less``, while the run's models compute. In calls
    ``rows`` are conditionings times pictures."""

    def __init__(
        self,
        plan: TilePlan,
        *,
        start: Callable[[TilePlan], TileRun],
        crop: Callable[[TilePlan], CropPatches],
        memory: Memory,
        relief: Callable[[], Iterator[str]],
        sigmas: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        self.plan, self.start, self.memory, self.relief = plan, start, memory, relief
        self.sigmas, self.seed = sigmas, seed
        self.step, self.tiles = -1, start(plan)
        self.crop, self.crop_patches = crop, crop(plan)
        self.most: int | None = None  # tiles in a call; None: as many as the host takes
        self.evaluations = 0  # of all tiles, begun until now
        self.rows = self.seen = 0  # of the one that is going on, and those that are done
        self.together = self.alike = 0  # tiles of the call that is going on, and its rows of one tile

    def at(self, timestep: Tensor) -> bool:
        """Lay the tiles for a noise level [B], also for a sampler that looks at several within a step; whether they changed."""
        step = 0 if self.sigmas is None else step_of(float(timestep.max()), self.sigmas)
        if step == self.step:
            return False
        if self.sigmas is not None:
            self.tiles = self.start(moved(self.plan, step=step, seed=self.seed))
        self.step = step
        return True

    def group(self, tile: int) -> Hashable:
        """Equal for what may share a call."""
        if self.most == APART:
            return object()
        return None if self.most is None else tile // self.most

    def begun(self, rows: int) -> None:
        self.rows, self.seen, self.together = rows, 0, 0

    def calling(self, rows: Sequence[dict[str, Any]]) -> None:
        self.together = len({row["tile"] for row in rows})
        self.alike = len(rows) // self.together

    def ways(self, *, pictures: int, patched: Callable[[], bool]) -> Iterator[str]:
        """For ``in_less``. patched: whether conditionings of a tile must share a call."""
        while True:
            most = min(self.together or self.tiles.plan.count, self.most or self.tiles.plan.count)
            if self.most == APART or most == 1:
                break
            self.most = most // 2
            yield f"{self.most} {'tile' if self.most == 1 else 'tiles'} at a time"
        if self.alike > pictures and self.most != APART and not patched():
            self.most = APART
            yield "one conditioning at a time"
        yield from self.relief()
        while (smaller := smaller_tiles(self.plan)) is not None:
            self.plan = shortages().plan = smaller
            self.step, self.tiles, self.crop_patches = -1, self.start(smaller), self.crop(smaller)
            yield in_tiles(smaller)
