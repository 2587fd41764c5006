"""Tiles one after the other, each sampled to its end: memory that does not grow with the picture's height, and work that can be
taken up again.

A tile sees finished neighbours: the part of the picture that it redraws has their pixels in it, by the plan's windows, and the
more they have of a place the less of it is redrawn. Its noise belongs to its place. So a tile depends on the pictures, models and
settings, and on the tiles that ``tiling.order.seen`` names, but on nothing else that was done before, in whatever run. DINO looks
at the whole picture, as in joint mode, and every tile gets the tokens of its own place in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..dino.encode import DinoEncoder
from ..dino.guidance.x0 import over_tiles
from ..files.fingerprints import fingerprint
from ..files.progress import Progress
from ..hosts.host import Host
from ..hosts.memory import each_once, shortages, shortages_told
from ..tiling.canvas import scaled_size
from ..tiling.color_match import OF_TILES
from ..tiling.mosaic import Mosaic, levels_of
from ..tiling.order import neighbours, order, seen, whole_after
from ..tiling.plan import TilePlan
from ..tiling.store import TileStore
from .adaptive import adaptive_mask
from .guides import check_guide
from .masks import EVERYWHERE, Masks
from .pipeline import MakeGuide
from .report import sizes, timed
from .rows import Source, content, reduced
from .settings import UpscaleSettings
from .tile import Ground, Tiles, TileSampler

LOOK = 2048  # px of the source's longer side that DINO is shown, at most
JOINT_ONLY = {  # settings that need the whole canvas at once
    "guide": "has DINO look at the whole canvas",
    "retry": "looks at the whole result",
    "moving": "shifts all tiles in every step",
}
NO_MATTER = ("mode", "tile_batch", "noise")  # settings that tiles do not depend on

WriteRows = Callable[[Tensor], None]
OpenStore = Callable[[str], TileStore]  # of a job's fingerprint
Redo = Callable[[TilePlan], list[int]]
Told = Callable[[float, str], None]  # of how many tiles are done, and a word about it


def joint_only(settings: UpscaleSettings) -> dict[str, str]:
    """The settings that need the whole canvas, and why."""
    found = {name: why for name, why in JOINT_ONLY.items() if getattr(settings, name)}
    return found | ({} if settings.color_match in OF_TILES else {"color_match": "measures the whole result"})


def check_sequential(settings: UpscaleSettings) -> None:
    """ValueError for settings that work on the whole canvas."""
    for name, why in joint_only(settings).items():
        instead = "adain_tiles" if name == "color_match" else 0
        raise ValueError(
            f"{name} {getattr(settings, name)} {why}, and mode sequential never has it: set {name} to {instead}, or mode to joint"
        )


@dataclass
class Kept:
    """Numbers of tiles, from 0: taken from a store, sampled, and done again."""

    reused: set[int] = field(default_factory=set)
    sampled: set[int] = field(default_factory=set)
    redone: list[int] = field(default_factory=list)

    def report(self, store: TileStore | None) -> dict[str, Any]:
        """Numbers from 1, of the plan, and how many were sampled."""
        damaged = set() if store is None else set(store.damaged)
        told = {"reused": self.reused, "redone": self.redone, "damaged": damaged}
        return {name: sorted(tile + 1 for tile in tiles) for name, tiles in told.items()} | {
            "sampled": len(self.sampled)
        }


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
    only: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The picture ``scale`` times as large, given to ``write`` row by row as [1, 3, n, W] from its top, and what was done.

    Other parameters as in ``pipeline.upscale``. open_store: opens the store of finished tiles for a job's fingerprint, which is
    made of all that tiles depend on; made_by: what tells the models from others. redo: numbers of finished tiles from 0, of a
    plan, that are done again in this order with other noise, in sight of all their neighbours; needs a store. only: the tiles
    that are finished in the store, with those that they see; nothing is written then. ValueError for settings that need the whole
    canvas.
    """
    check_sequential(settings)
    check_guide(settings, encoder)
    masks.check(source.height, source.width)
    seconds: dict[str, float] = {}
    size = scaled_size(source.height, source.width, scale=settings.scale)
    plan = settings.plan(source.height, source.width, latents=host.latents)
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
    kept, total = Kept(), plan.count + len(again)
    try:
        if only is not None:
            _some(tiles, only, store=store, kept=kept, told=_telling(progress, 0, len(only)))
        else:
            looked = bool(again) or (store is not None and bool(store.redone))  # so that it is known how all came to be
            if looked:
                if again:
                    _check_redo(store).alone()
                _run(tiles, store=store, kept=kept, write=None, told=_telling(progress, 0, total))
                _redo(tiles, again, store=_check_redo(store), kept=kept, told=_telling(progress, plan.count, total))
            _run(tiles, store=store, kept=kept, write=write, told=_telling(progress, looked and total, total))
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
        "guidance": over_tiles(tiles.guided),
        "fidelity": None,
        "retry": None,
        "seams": None,
        "out_of_memory": shortages().told,
        "kept": kept.report(store),
        **told,
        "settings": asdict(settings.sequential),
        "seconds": seconds,
    }


def _run(tiles: Tiles, *, store: TileStore | None, kept: Kept, write: WriteRows | None, told: Told) -> None:
    """Every tile, and rows as soon as they are whole."""
    plan, size = tiles.plan, tiles.ground.size
    mosaic, written = Mosaic(plan), 0
    for done, (tile, whole) in enumerate(zip(order(plan), whole_after(plan), strict=True)):
        note = f"tile {done + 1} of {plan.count}"
        _finish(replace(tiles, progress=partial(_part, told, done, note)), tile, mosaic, store=store, kept=kept)
        if write is not None:
            for top in range(written, min(whole, size[0]), plan.tile_height):
                bottom = min(top + plan.tile_height, whole, size[0])
                with timed(tiles.seconds, "write"):
                    write(mosaic.rows(top, bottom)[..., : size[1]])
        written = max(written, whole)
        mosaic.forget_above(whole)
        told(done + 1, note)


def _check_redo(store: TileStore | None) -> TileStore:
    if store is None:
        raise ValueError("redo takes the other tiles from a store, and none was named: name one with --store")
    return store


def _redo(tiles: Tiles, again: Sequence[int], *, store: TileStore, kept: Kept, told: Told) -> None:
    for done, tile in enumerate(again):
        mosaic, around, note = Mosaic(tiles.plan), neighbours(tiles.plan, tile), f"tile {tile + 1} again"
        shown, before = replace(tiles, progress=partial(_part, told, done, note)), store.get(tile)
        for other in around:
            _finish(shown, other, mosaic, store=store, kept=kept)
        turn = 1 if before is None else before[1] + 1
        levels, short = _made(shown, tile, mosaic, store=store, sees=around, turn=turn)
        store.redo(
            tile, levels, turn=turn, short=each_once([*store.short.get(tile, ()), *short])
        )  # others saw it before
        kept.redone.append(tile)
        told(done + 1, note)


def _some(tiles: Tiles, only: Sequence[int], *, store: TileStore | None, kept: Kept, told: Told) -> None:
    for done, tile in enumerate(only):
        if tile >= tiles.plan.count:
            raise ValueError(
                f"tile {tile + 1} is outside of the plan, which has tiles 1 to {tiles.plan.count}: leave the picture as it is "
                "while its tiles are drawn"
            )
        note = f"tile {tile + 1}"
        shown = replace(tiles, progress=partial(_part, told, done, note))
        _finish(shown, tile, Mosaic(tiles.plan), store=store, kept=kept)
        told(done + 1, note)


def _finish(tiles: Tiles, tile: int, mosaic: Mosaic, *, store: TileStore | None, kept: Kept) -> None:
    """Put a tile into the mosaic, from the store or made now; before it those that it sees and that are not there, as other jobs
    may have taken their room."""
    found = None if store is None else store.get(tile)
    if found is not None:
        levels = found[0]
        if tile not in kept.sampled:
            kept.reused.add(tile)
    else:
        sees = seen(tiles.plan, tile)
        if store is not None:
            store.check_open(tile)
        for other in sees:
            if other not in mosaic.tiles:
                _finish(tiles, other, mosaic, store=store, kept=kept)
        levels, short = _made(tiles, tile, mosaic, store=store, sees=sees)
        kept.sampled.add(tile)
        if store is not None:
            store.made(tile, sees)
            store.put(tile, levels, short=short)
    mosaic.put(tile, levels)


def _made(
    tiles: Tiles, tile: int, mosaic: Mosaic, *, store: TileStore | None, sees: list[int], turn: int = 0
) -> tuple[Tensor, list[dict[str, str]]]:
    """A tile's levels, and where memory ended for it and then for those that it sees, each way once: a store may lose those, and
    this one still shows how they were drawn."""
    before = len(shortages().told)
    levels = levels_of(tiles.make(tile, mosaic, sees=sees, turn=turn))
    theirs = [] if store is None else [each for other in sees for each in store.short.get(other, ())]
    return levels, each_once([*shortages().told[before:], *theirs])


def _telling(progress: Progress | None, before: int, total: int) -> Told:
    """What tells how many tiles of a part of the work are done; before: tiles of the parts that went before."""

    def told(done: float, note: str) -> None:
        if progress is not None:
            progress("sample", min(before + done, total), total, note)

    return told


def _part(told: Told, before: int, note: str, stage: str, done: float, total: float, within: str = "") -> None:
    """A tile's own progress, as a part of all tiles'."""
    if done < total:
        told(before + done / total, note)


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
