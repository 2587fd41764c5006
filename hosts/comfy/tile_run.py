"""One conditioning per tile: the host crops, batches and fuses them by their areas and masks.

A conditioning is replaced by one for each tile that it reaches, whose area is its part of the tile and whose mask is the tile's
window there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...flux_patch.memo import RunMemo
from ...flux_patch.redux import RegionTokens
from ...tiling.canvas import cut
from ...tiling.plan import Box, TilePlan
from ...tiling.windows import tile_windows, window
from .areas import MASK_GRID, area_weight, cells_before, on_canvas, reached, sheet
from .crop import Area, check_entries, crop_entries
from .shown import COVERS, Shown, put, shown_by
from .tile_rows import KEY, TileCond, row_of_part

CropControl = Callable[[Any, Box, TilePlan], Any]


class TileRun:
    """The tiles of one sampling run over a latent plan, or of one step where they move. Masks, cropped ControlNet hints and areas
    are made once and kept until it ends. framed: latents have a dimension of one frame before rows and columns."""

    def __init__(self, plan: TilePlan, *, rows: list[dict], crop_control: CropControl, framed: bool = False) -> None:
        self.plan = plan
        self.framed = framed
        self.rows = rows
        self.crop_control = crop_control
        self.windows = tile_windows(plan)
        self._fixed: dict[tuple, list[tuple[dict, dict]]] = {}
        self._shown: dict[tuple, tuple[Shown, ...]] = {}
        self._sheets: dict[tuple, Tensor] = {}
        self._controls: dict[tuple, Any] = {}
        self._parts: dict[tuple[int, Box], dict] = {}
        self._memo = RunMemo()

    def split(
        self,
        conds: list[dict],
        *,
        slot: int,
        device: torch.device,
        patches: tuple[str, ...] = (),
        whole: bool = False,
        group: Callable[[int], Hashable] = lambda tile: None,
    ) -> list[dict]:
        """One conditioning per tile and input conditioning. ``slot``: 0 positive, 1 negative, as the host orders them.
        ``patches``, ``group`` of a tile's number: as for ``TileCond``; ``whole``: as for ``reached``."""
        tiles = []
        for index, cond in enumerate(conds):
            key = (slot, index, cond["uuid"])
            if key not in self._fixed:
                self._fixed[key], self._shown[key] = self._fix(cond, device, whole), shown_by(cond)
            for row, fixed in self._fixed[key]:
                entries = crop_entries(
                    cond["model_conds"], fixed["area"], self.plan, device=device, mask_grid=cond.get(MASK_GRID)
                )
                entries = put(entries, self._regions(cond, self._shown[key], fixed["area"]))
                entries[KEY] = TileCond(row, patches, group(row["tile"]))
                tiles.append({**cond, **fixed, "model_conds": entries})
        return tiles

    def _fix(self, cond: dict, device: torch.device, whole: bool) -> list[tuple[dict, dict]]:
        """Each tile that the conditioning touches: its row for other packs, and what stays the same over the steps."""
        for name in ("default", "gligen"):
            if name in cond:
                raise ValueError(f"a conditioning with {name!r} cannot be sampled in tiles: connect one without it")
        if self.plan.count > 1:
            check_entries(cond["model_conds"])
        fixed = []
        for number, (box, pair) in enumerate(zip(self.plan.boxes, self.windows, strict=True)):
            part = reached(cond.get("area"), box, self.plan, whole=whole)
            mask = None if part is None else self._mask(cond, box, pair, part, device)
            if part is None or mask is None:
                continue
            place = str(box) if part == box else f"{part} of {box}"
            tile = {
                "area": (part.height, part.width, part.top, part.left),
                "mask": mask[:, None] if self.framed else mask,
                "uuid": uuid.uuid5(cond["uuid"], place),  # caches of other nodes are kept by it
            }
            if cond.get("control") is not None:
                tile["control"] = self._control(cond["control"], part)
            fixed.append((self._row(number, box, part), tile))
        return fixed

    def _row(self, number: int, box: Box, part: Box) -> dict:
        """One object for all that is run on a part, by which patches that see a whole call have it together."""
        if part == box:
            return self.rows[number]
        return self._parts.setdefault((number, part), row_of_part(self.rows[number], part, self.plan))

    def _control(self, control: Any, box: Box) -> Any:
        """One object for the positive and the negative: the host runs them together and prepares its hint once."""
        key = (id(control), box)
        if key not in self._controls:
            self._controls[key] = self.crop_control(control, box, self.plan)
        return self._controls[key]

    def _regions(self, cond: dict, pictures: tuple[Shown, ...], area: Area) -> list[tuple[slice, RegionTokens]]:
        """What a text shows of the tile, and where in it."""
        height, width, top, left = area
        box = Box(top, left, height, width).fractions(*cond.get(COVERS, (self.plan.height, self.plan.width)))
        return [
            (shown.place, self._memo.once((id(shown.redux), box), partial(shown.redux.region, box)))
            for shown in pictures
        ]

    def _mask(
        self, cond: dict, box: Box, pair: tuple[Tensor, Tensor], part: Box, device: torch.device
    ) -> Tensor | None:
        """The weight of a tile's part as a [n, height, width] view of the canvas, None where nothing is said there."""
        area, mask = cond.get("area"), cond.get("mask")
        if area is None and mask is None:
            start = cells_before(Box(self.plan.tops[-1], self.plan.lefts[-1], box.height, box.width))
            key = (pair[0].numpy().tobytes(), pair[1].numpy().tobytes())
            if key not in self._sheets:
                self._sheets[key] = sheet(window(pair)[None].to(device), self.plan, start=start)
            return on_canvas(self._sheets[key], box, self.plan, start=start)
        weight = window(pair)[None].to(device)
        if area is not None:
            weight = weight * area_weight(area, box, self.plan, soft=mask is None).to(device)
        if mask is not None:
            weight = weight * cut(mask.reshape(-1, *mask.shape[-2:]), box).to(device)
        weight = cut(weight, part.moved(-box.top, -box.left))
        if not bool(weight.any()):
            return None
        start = cells_before(part)
        return on_canvas(sheet(weight, self.plan, start=start), part, self.plan, start=start)
