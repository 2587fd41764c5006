"""Which tile each row of a model call shows: an entry of ``model_conds`` that the host batches like its own.

``TileCond`` also decides which rows come together. The model's own rows are independent, so any tiles share a call. A patch
of another node may look at the whole call: *NAGuidance* takes the first positive and the first negative row, caches take the
call's mean. Such a model gets the rows of one tile in a call, as it gets those of a picture without tiles.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from ...tiling.plan import Box, TilePlan

KEY = "dinotile_tiles"  # in model_conds, and so a keyword of the model call
TILES = "tiles"  # in transformer_options["dinotile"]: a row of ``tile_rows`` for each row of the call


def tile_rows(plan: TilePlan) -> list[dict[str, Any]]:
    """What other packs read about each tile of a plan in px (docs/other-packs.md)."""
    return [
        {
            "tile": number,
            "tiles": plan.count,
            "box": (box.left, box.top, box.right, box.bottom),
            "canvas": (plan.width, plan.height),
        }
        for number, box in enumerate(plan.boxes)
    ]


def row_of_part(row: dict[str, Any], part: Box, plan: TilePlan) -> dict[str, Any]:
    """A row of a tile of which only a part is run. part, plan: in latent cells."""
    cell = row["canvas"][0] // plan.width
    return {**row, "box": tuple(cell * side for side in (part.left, part.top, part.right, part.bottom))}


class TileCond:
    """A tile's entry of ``model_conds``, with the interface of ``comfy.conds.CONDRegular``.

    ``patches`` names what sees the whole call; empty where any tiles may share one. It is the last entry, so the host asks
    ``can_concat`` only for what is alike in all else: ``together`` are those that a call without tiles would hold.
    ``group``: equal for those that may share a call, where memory ended for more.
    """

    def __init__(
        self, row: dict[str, Any], patches: tuple[str, ...], group: Hashable = None, batch_size: int = 0
    ) -> None:
        self.row = row
        self.group = group
        self.patches = patches
        self.rows = (row,) * batch_size
        self.together = {self}

    def process_cond(self, batch_size: int, **kwargs: Any) -> TileCond:
        return TileCond(self.row, self.patches, self.group, batch_size)

    def can_concat(self, other: Any) -> bool:
        if self.group != other.group:
            return False
        if not self.patches:
            return True
        if self.row is not other.row:
            return False
        other.together.add(self)
        self.together = other.together
        return True

    def concat(self, others: list[TileCond]) -> tuple[dict[str, Any], ...]:
        if len(self.together) > 1 + len(others):
            left, top, right, bottom = self.row["box"]
            raise ValueError(
                f"the memory of one device holds {1 + len(others)} of the {len(self.together)} conditionings of a tile of "
                f"{right - left} x {bottom - top} px at a time, {', '.join(self.patches)} needs them together: make the "
                f"tiles smaller, or remove that patch from the model"
            )
        return sum((other.rows for other in others), self.rows)

    def size(self) -> list[int]:
        """For the host's memory estimate."""
        return [len(self.rows)]
