"""Which tile each row of a model call shows: an entry of ``model_conds`` that the host batches like its own.

``TileCond`` also decides which rows come together. The model's own rows are independent, so any tiles share a call. A patch
of another node may look at the whole call: *NAGuidance* takes the first positive and the first negative row, caches take the
call's mean. Such a model gets the rows of one tile in a call, as it gets those of a picture without tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.hooks
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ...tiling.plan import TilePlan
from .inject import OPTIONS, BlockPatch

KEY = "dinotile_tiles"  # in model_conds; the pack's wrappers have keys that start like it
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


class TileCond:
    """A tile's entry of ``model_conds``, with the interface of ``comfy.conds.CONDRegular``.

    ``patches`` names what sees the whole call; empty where any tiles may share one. It is the last entry, so the host asks
    ``can_concat`` only for what is alike in all else: ``together`` are those that a call without tiles would hold.
    """

    def __init__(self, row: dict[str, Any], patches: tuple[str, ...], batch_size: int = 0) -> None:
        self.row = row
        self.patches = patches
        self.rows = (row,) * batch_size
        self.together = {self}

    def process_cond(self, batch_size: int, **kwargs: Any) -> TileCond:
        return TileCond(self.row, self.patches, batch_size)

    def can_concat(self, other: Any) -> bool:
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


def foreign_patches(model_options: dict, conds: list) -> tuple[str, ...]:
    """Names of what others put inside the model call, where it sees all rows of the call."""
    return tuple(dict.fromkeys(_name(patch) for patch in _foreign(model_options, conds)))


def _foreign(model_options: dict, conds: list) -> Iterator[Any]:
    options = model_options.get("transformer_options", {})
    for patches in options.get("patches", {}).values():
        yield from (patch for patch in patches if not isinstance(patch, BlockPatch))
    for replaced in options.get("patches_replace", {}).values():
        yield from replaced.values()
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        for key, wrappers in options.get("wrappers", {}).get(kind, {}).items():
            if key != COMPILE_KEY and not str(key).startswith(OPTIONS):
                yield from wrappers
    if "model_function_wrapper" in model_options:
        yield model_options["model_function_wrapper"]
    for cond in (cond for group in conds for cond in group or () if cond.get("hooks") is not None):
        yield from cond["hooks"].get_type(comfy.hooks.EnumHookType.TransformerOptions)


def _name(patch: Any) -> str:
    return getattr(patch, "__qualname__", type(patch).__qualname__).split(".")[0]
