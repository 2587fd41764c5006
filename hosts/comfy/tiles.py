"""All tiles in every step, on one canvas: one conditioning per tile, and the host does the rest.

ComfyUI's own batching crops the canvas to each conditioning's area, runs as many as memory allows, spreads them over GPUs
and returns the average weighted by their masks. So tiles need no loop of their own: ``TileRun.split`` replaces a
conditioning by one per tile whose area is the tile and whose mask is the tile's window.
"""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...flux_patch.memo import RunMemo
from ...flux_patch.redux import RegionTokens
from ...tiling.canvas import cut
from ...tiling.plan import Box, TilePlan
from ...tiling.windows import tile_windows, window
from ..finite import finite
from ..memory import Memory, in_less
from .areas import MASK_GRID, area_weight, cells_before, on_canvas, reached, sheet, shows_more
from .crop import Area, check_entries, crop_entries
from .inject import MEMO, OPTIONS, call_arguments
from .joint_run import CropPatches, JointRun
from .latents import check_canvas
from .patch_kinds import hints_of, shows_picture
from .shown import COVERS, REDUX, check_shown, put
from .supir import compare_within
from .tile_rows import KEY, TILES, TileCond, row_of_part, tile_rows

CropControl = Callable[[Any, Box, TilePlan], Any]
FindPatches = Callable[[dict, list], tuple[str, ...]]
RUN = "dinotile_run"  # in model_options and in transformer_options: the JointRun of one sampling run


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
                self._fixed[key] = self._fix(cond, device, whole)
            for row, fixed in self._fixed[key]:
                entries = crop_entries(
                    cond["model_conds"], fixed["area"], self.plan, device=device, mask_grid=cond.get(MASK_GRID)
                )
                entries = put(entries, self._regions(cond, fixed["area"]))
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

    def _regions(self, cond: dict, area: Area) -> list[tuple[slice, RegionTokens]]:
        """What a text shows of the tile, and where in it."""
        height, width, top, left = area
        box = Box(top, left, height, width).fractions(*cond.get(COVERS, (self.plan.height, self.plan.width)))
        return [
            (shown.place, self._memo.once((id(shown.redux), box), partial(shown.redux.region, box)))
            for shown in cond.get(REDUX, ())
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
            weight = weight * cut(mask[:, 0] if self.framed else mask, box).to(device)
        weight = cut(weight, part.moved(-box.top, -box.left))
        if not bool(weight.any()):
            return None
        start = cells_before(part)
        return on_canvas(sheet(weight, self.plan, start=start), part, self.plan, start=start)


class TileWrapper:
    """The wrappers of *Tile Model*. It holds the plan in pixels and no state of a run. crop_controls: called once for a run,
    crop_patches once for its plan; what a call's patches show is that of its first row, as a call with such a patch has one
    tile. memory, relief: of a device, and of a run's guider."""

    def __init__(
        self,
        plan: TilePlan,
        *,
        moving: bool,
        crop_controls: Callable[[], CropControl],
        crop_patches: Callable[[TilePlan], CropPatches],
        find_patches: FindPatches,
        check_interrupt: Callable[[], None],
        memory: Callable[[torch.device], Memory],
        relief: Callable[[Memory, weakref.ref], Iterator[str]],
    ) -> None:
        self.plan = plan
        self.moving = moving
        self.crop_controls = crop_controls
        self.crop_patches = crop_patches
        self.find_patches = find_patches
        self.check_interrupt = check_interrupt
        self.memory, self.relief = memory, relief

    def outer_sample(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """OUTER_SAMPLE: starts the run. ``guider.model_options`` and ``guider.conds`` are the run's own copies."""
        check_canvas(noise)
        self._check_size(noise.shape[-2:])
        crop_control = self.crop_controls()

        def start(plan: TilePlan) -> TileRun:
            return TileRun(plan.latent, rows=tile_rows(plan), crop_control=crop_control, framed=noise.ndim == 5)

        guider = executor.class_obj
        seed = kwargs.get("seed", args[3] if len(args) > 3 else None)  # after the mask, callback and disable_pbar
        moving: dict[str, Any] = {"sigmas": sigmas.tolist(), "seed": seed or 0} if self.moving else {}
        memory = self.memory(guider.model_patcher.load_device)
        others = partial(self.relief, memory, weakref.ref(guider))
        run = JointRun(self.plan, start=start, crop=self.crop_patches, memory=memory, relief=others, **moving)
        guider.model_options[RUN] = run
        options = guider.model_options.setdefault("transformer_options", {})
        options[RUN] = run
        compare_within(guider.model_options, hints_of(options.get("patches", {})), self.plan)
        tokens = tuple(-(-side // self.plan.latent.grid) for side in noise.shape[-2:])
        guider.conds = {
            slot: [sized(keep_mask(check_shown(cond, batch=len(noise)), tokens), self.plan) for cond in conds]
            for slot, conds in guider.conds.items()
        }
        return finite(executor(noise, latent_image, sampler, sigmas, *args, **kwargs), "sample")

    def calc_cond_batch(
        self, executor: Any, model: Any, conds: Any, x_in: Tensor, timestep: Tensor, model_options: dict, *args: Any
    ) -> Any:
        """CALC_COND_BATCH: every conditioning becomes one per tile; where memory ends, all are evaluated again with less."""
        run: JointRun = model_options[RUN]
        options, size = model_options["transformer_options"], tuple(x_in.shape[-2:])
        found: tuple[str, ...] = ()
        run.evaluations += 1

        def evaluate() -> Any:
            nonlocal found
            if run.at(timestep) and MEMO in options:
                options[MEMO].clear()  # of regions that do not come again
            plan = run.tiles.plan
            if model_options.get("context_handler") is not None and size != (plan.height, plan.width):
                raise ValueError(
                    "context windows cut the picture, as tiles do: remove their node from the model, or sample without tiles"
                )
            self._check_size(size)
            every = [cond for listed in conds for cond in listed or ()]
            parts = plan.count > 1 or any("area" in cond for cond in every)
            found = self.find_patches(model_options, conds) if parts else ()
            whole = shows_picture(options.get("patches", {})) or any(map(shows_more, every))
            split = partial(run.tiles.split, device=x_in.device, patches=found, whole=whole, group=run.group)
            tiles = [None if c is None else split(c, slot=i) for i, c in enumerate(conds)]
            run.begun(len(x_in) * sum(len(of) for of in tiles if of is not None))
            return executor(model, tiles, x_in, timestep, model_options, *args)

        ways = run.ways(pictures=len(x_in), patched=lambda: bool(found))
        return in_less(evaluate, stage="sample", ways=ways, memory=run.memory)

    def _check_size(self, size: Sequence[int]) -> None:
        """Rows and columns, of the latent that the run begins with and of what it asks of the model."""
        height, width = (side * self.plan.cell for side in size)
        if (height, width) != (self.plan.height, self.plan.width):
            raise ValueError(
                f"the latent is {width} x {height} px, the tile plan was made for {self.plan.width} x {self.plan.height} px: "
                "connect the width and height of the picture that is sampled to Plan Tiles"
            )

    def apply_model(self, executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL: tells patches which tiles the rows show. A step has many calls; an interrupt need not wait for the
        last."""
        self.check_interrupt()
        rows = kwargs.pop(KEY, None)
        *given, options = call_arguments(args, kwargs)
        if rows is not None:
            options[OPTIONS] = {**options.get(OPTIONS, {}), TILES: rows}
            run: JointRun = options[RUN]
            run.calling(rows)
            if "patches" in options:
                options["patches"] = run.crop_patches(options["patches"], rows[0]["box"], x.device)
        return executor(x, t, *given, options, **kwargs)


def keep_mask(cond: dict, tokens: tuple[int, ...]) -> dict:
    """A conditioning whose attention mask the host takes for one of all canvas tokens, and so does not stretch to them."""
    if "attention_mask_img_shape" not in cond:
        return cond
    return {**cond, MASK_GRID: tuple(cond["attention_mask_img_shape"]), "attention_mask_img_shape": tokens}


def sized(cond: dict, plan: TilePlan) -> dict:
    """A conditioning for a model that is told the size of its picture, as SDXL is: that of a tile, not of the canvas."""
    return cond if plan.count == 1 else {"width": plan.tile_width, "height": plan.tile_height, **cond}
