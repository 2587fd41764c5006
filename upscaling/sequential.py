"""Tiles one after the other, each sampled to its end: memory that does not grow with the picture's height, and work that can be
taken up again.

A tile sees finished neighbours: the part of the picture that it redraws has their pixels in it, by the plan's windows, and the
more they have of a place the less of it is redrawn. Its noise belongs to its place. So a tile depends on the pictures, models and
settings, and on the tiles that ``tiling.order.seen`` names, but on nothing else that was done before, in whatever run. DINO looks
at the whole picture, as in joint mode, and every tile gets the tokens of its own place in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..dino.encode import DinoEncoder
from ..files.fingerprints import fingerprint
from ..files.progress import Progress
from ..flux_patch.guide import Guide, PartGuide
from ..hosts.finite import finite
from ..hosts.host import Host
from ..hosts.memory import shortages, shortages_told
from ..tiling.canvas import scaled_size
from ..tiling.color_match import match_color
from ..tiling.mosaic import Mosaic, levels_of
from ..tiling.noise import placed_noise
from ..tiling.order import neighbours, order, seen, whole_after
from ..tiling.plan import Box, TilePlan, canvas_size
from ..tiling.store import TileStore
from .adaptive import adaptive_mask
from .guides import check_guide
from .masks import EVERYWHERE, Masks
from .pipeline import MakeGuide, Sampler
from .report import sizes, timed
from .rows import Source, content, reduced
from .settings import UpscaleSettings
from .tile import Ground, context_mask, part_of_mask, product

LOOK = 2048  # px of the source's longer side that DINO is shown, at most
JOINT_ONLY = {  # settings that need the whole canvas at once
    "anchor": "changes the estimate of the whole canvas",
    "guide": "changes the estimate of the whole canvas",
    "retry": "looks at the whole result",
    "moving": "shifts all tiles in every step",
}
NO_MATTER = ("mode", "tile_batch")  # settings that tiles do not depend on

WriteRows = Callable[[Tensor], None]
OpenStore = Callable[[str], TileStore]  # of a job's fingerprint
Redo = Callable[[TilePlan], list[int]]


class TileSampler(Sampler, Protocol):
    """A sampler that knows its place on the picture."""

    def at(self, box: Box, *, canvas: tuple[int, int]) -> Sampler:
        """For what lies in a box of a canvas, both in latent cells, and is sampled as a canvas of its own: what else the
        sampler is told of the picture is then told of that place."""
        ...


def joint_only(settings: UpscaleSettings) -> dict[str, str]:
    """The settings that need the whole canvas, and why."""
    found = {name: why for name, why in JOINT_ONLY.items() if getattr(settings, name)}
    return found | ({"color_match": "measures the whole result"} if settings.color_match == "adain" else {})


def check_sequential(settings: UpscaleSettings) -> None:
    """ValueError for settings that work on the whole canvas."""
    for name, why in joint_only(settings).items():
        instead = "adain_tiles" if name == "color_match" else 0
        raise ValueError(
            f"{name} {getattr(settings, name)} {why}, and mode sequential never has it: set {name} to {instead}, or mode to joint"
        )


@dataclass
class Kept:
    """What a run took from a store, and did. reused, redone, damaged: numbers of tiles from 1, of the plan."""

    reused: list[int] = field(default_factory=list)
    redone: list[int] = field(default_factory=list)
    sampled: int = 0


@dataclass(frozen=True, eq=False)
class Tiles:
    """All that the tiles of one picture are made of."""

    host: Host
    settings: UpscaleSettings
    plan: TilePlan
    ground: Ground
    sampler: TileSampler
    guide: Guide | None
    redrawn: list[Tensor]
    progress: Progress | None
    seconds: dict[str, float]

    def make(self, tile: int, mosaic: Mosaic, *, sees: list[int], turn: int = 0) -> Tensor:
        """A tile [1, 3, h, w] in 0..1, with these neighbours in sight, which are in the mosaic."""
        host, settings, box = self.host, self.settings, self.plan.boxes[tile]
        host.check_interrupt()
        with timed(self.seconds, "enlarge"):
            plain = self.ground.part(box)
        shown, share = mosaic.over(plain, box, sees)
        with timed(self.seconds, "encode"):
            latents = finite(host.encode(shown), "encode")
            lost = None
            if settings.vae_detail > 0:
                lost = settings.vae_detail * (shown - finite(host.decode(latents), "decode").to(shown))
        masks = [part_of_mask(mask, box, size=self.ground.size, latents=host.latents) for mask in self.redrawn]
        kept = context_mask(share, latents=host.latents)
        cells, canvas = self.plan.latent.boxes[tile], (self.plan.latent.height, self.plan.latent.width)
        with timed(self.seconds, "sample"):
            drawn = self.sampler.at(cells, canvas=canvas)(
                latents,
                plan=self.plan.alone(tile),
                guide=None if self.guide is None else PartGuide(self.guide, cells, canvas),
                denoise_mask=product(masks if kept is None else [*masks, kept]),
                noise=placed_noise(cells, channels=latents.shape[1], seed=settings.seed, turn=turn)[None],
                progress=self.progress,
            )
            finite(drawn, "sample")
        with timed(self.seconds, "decode"):
            result = finite(host.decode(drawn), "decode").float().cpu()
            if lost is not None:
                result = (result + lost.to(result)).clamp_(0, 1)
            way = "adain" if settings.color_match == "adain_tiles" else settings.color_match  # of a tile that is alone
            result = match_color(result, plain.to(result), way=way, plan=self.plan.alone(tile))
            return self.ground.back_projected(result, box, fidelity=settings.fidelity)


@torch.no_grad()
@shortages_told()
def upscale_tiles(
    host: Host,
    source: Source,
    settings: UpscaleSettings,
    *,
    sampler: TileSampler,
    write: WriteRows,
    make_guide: MakeGuide | None = None,
    encoder: DinoEncoder | None = None,
    enlarge: Callable[[Tensor], Tensor] | None = None,
    masks: Masks = EVERYWHERE,
    open_store: OpenStore | None = None,
    made_by: str = "",
    redo: Redo | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The picture ``scale`` times as large, given to ``write`` row by row as [1, 3, n, W] from its top, and what was done.

    Other parameters as in ``pipeline.upscale``. open_store: opens the store of finished tiles for a job's fingerprint, which is
    made of all that tiles depend on; made_by: what tells the models from others. redo: numbers of finished tiles from 0, of a
    plan, that are done again with other noise, in sight of all their neighbours; needs a store. ValueError for settings that
    need the whole canvas.
    """
    check_sequential(settings)
    check_guide(settings, encoder)
    masks.check(source.height, source.width)
    seconds: dict[str, float] = {}
    size = scaled_size(source.height, source.width, scale=settings.scale)
    canvas = canvas_size(*size, grid=host.latents.token)
    plan = host.latents.plan_tiles(*canvas, tile=settings.tile, overlap=settings.overlap, fit=settings.tile_fit)
    again = [] if redo is None else redo(plan)
    wanted = make_guide if settings.dino_strength > 0 else None
    redrawn = [] if masks.denoise is None else [masks.denoise]
    guide = None
    with timed(seconds, "dino", None if wanted is None and settings.adaptive == 0 else progress):
        look = reduced(source, longest=LOOK)
        if wanted is not None:
            guide = wanted(look, plan=plan, size=size)
        if encoder is not None and settings.adaptive > 0:
            redrawn.append(adaptive_mask(host, encoder, look, amount=settings.adaptive))
    store = None
    if open_store is not None:
        store = open_store(_job(source, settings, plan=plan, masks=masks, host=host, made_by=made_by))
    ground = Ground(source, size, enlarge)
    tiles = Tiles(host, settings, plan, ground, sampler, guide, redrawn, None, seconds)
    kept = Kept()
    try:
        if again:
            _run(tiles, store=store, kept=kept, write=None, progress=progress)
            _redo(tiles, again, store=store, kept=kept, progress=progress)
        _run(tiles, store=store, kept=kept, write=write, progress=progress)
    finally:
        if store is not None:
            store.close()
    told = sampler.describe(plan)
    told.pop("batch", None)
    shape = torch.empty(1, 3, source.height, source.width, device="meta")
    return {
        **sizes(shape, size, plan=plan, laid=plan, batch=1),
        "redrawn": None,
        "dino": None if guide is None or wanted is None else wanted.describe(),
        "guidance": None,
        "fidelity": None,
        "retry": None,
        "seams": None,
        "out_of_memory": shortages().told,
        "kept": {**asdict(kept), "damaged": [tile + 1 for tile in store.damaged] if store is not None else []},
        **told,
        "settings": asdict(replace(settings, mode="sequential")),
        "seconds": seconds,
    }


def _run(
    tiles: Tiles, *, store: TileStore | None, kept: Kept, write: WriteRows | None, progress: Progress | None
) -> None:
    """Every tile, from the store or made now, and rows as soon as they are whole."""
    plan, size = tiles.plan, tiles.ground.size
    mosaic, written = Mosaic(plan), 0
    for done, (tile, whole) in enumerate(zip(order(plan), whole_after(plan), strict=True)):
        found = None if store is None else store.get(tile)
        if found is not None:
            mosaic.put(tile, found[0])
            kept.reused += [] if tile + 1 in kept.reused else [tile + 1]
        else:
            shown = replace(tiles, progress=partial(_part, progress, done, plan.count))
            levels = levels_of(shown.make(tile, mosaic, sees=seen(plan, tile)))
            mosaic.put(tile, levels)
            kept.sampled += 1
            if store is not None:
                store.put(tile, levels)
        if progress is not None:
            progress("sample", done + 1, plan.count, f"tile {done + 1} of {plan.count}")
        if write is not None:
            for top in range(written, min(whole, size[0]), plan.tile_height):
                bottom = min(top + plan.tile_height, whole, size[0])
                with timed(tiles.seconds, "write"):
                    write(mosaic.rows(top, bottom)[..., : size[1]])
        written = max(written, whole)
        mosaic.forget_above(whole)


def _redo(
    tiles: Tiles, again: Iterable[int], *, store: TileStore | None, kept: Kept, progress: Progress | None
) -> None:
    if store is None:
        raise ValueError("redo takes the other tiles from a store, and none was named: name one with --store")
    numbers = sorted(set(again))
    for done, tile in enumerate(numbers):
        mosaic, around = Mosaic(tiles.plan), neighbours(tiles.plan, tile)
        for other in (*around, tile):
            found = store.get(other)
            if found is None:
                raise ValueError(f"tile {other + 1} went from the store {store.folder} meanwhile: start again")
            mosaic.put(other, found[0])
            turn = found[1]
        shown = replace(tiles, progress=partial(_part, progress, done, len(numbers)))
        store.put(tile, levels_of(shown.make(tile, mosaic, sees=around, turn=turn + 1)), turn=turn + 1)
        kept.redone.append(tile + 1)


def _part(
    progress: Progress | None, before: int, count: int, stage: str, done: float, total: float, note: str = ""
) -> None:
    """A tile's own progress as a part of all tiles'."""
    if progress is not None and done < total:
        progress("sample", before + done / total, count, f"tile {before + 1} of {count}")


def _job(source: Source, settings: UpscaleSettings, *, plan: TilePlan, masks: Masks, host: Host, made_by: str) -> str:
    """The fingerprint of all that the tiles depend on."""
    set_to = {name: value for name, value in asdict(settings).items() if name not in NO_MATTER}
    shown = [
        None if mask is None else fingerprint(mask.float().cpu().numpy().tobytes())
        for mask in (masks.dino, masks.denoise)
    ]
    computed = [host.device.type, str(host.dtype), torch.__version__]
    said = {
        "source": content(source),
        "settings": set_to,
        "plan": asdict(plan),
        "masks": shown,
        "by": [made_by, *computed],
    }
    return fingerprint(json.dumps(said, sort_keys=True).encode())
