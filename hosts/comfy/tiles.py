"""All tiles in every step, on one canvas: one conditioning per tile, and the host does the rest.

ComfyUI's own batching crops the canvas to each conditioning's area, runs as many as memory allows, spreads them over GPUs
and returns the average weighted by their masks. So tiles need no loop of their own: ``TileRun.split`` (tile_run.py) replaces a
conditioning by one per tile whose area is its part of the tile and whose mask is the tile's window there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...tiling.plan import TilePlan
from ..finite import finite
from ..memory import Memory, in_less
from .areas import MASK_GRID, masks_of, shows_more
from .inject import MEMO, OPTIONS, call_arguments
from .joint_run import CropPatches, JointRun
from .latents import check_canvas
from .patch_kinds import hints_of, shows_picture
from .shown import check_shown
from .supir import compare_within
from .tile_rows import KEY, TILES, tile_rows
from .tile_run import CropControl, TileRun

FindPatches = Callable[[dict, list], tuple[str, ...]]
RUN = "dinotile_run"  # in model_options and in transformer_options: the JointRun of one sampling run


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
        for cond in (each for conds in guider.conds.values() for each in conds if "mask" in each):
            masks_of(cond["mask"], pictures=len(noise))

        def checked(cond: dict[str, Any]) -> dict[str, Any]:
            return sized(keep_mask(check_shown(cond, cond.get("cross_attn"), batch=len(noise)), tokens), self.plan)

        guider.conds = {slot: [checked(cond) for cond in conds] for slot, conds in guider.conds.items()}
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
