"""What a row of the semantics table is made with, and made of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dinotile import demo
from dinotile.demo.train import world
from dinotile.dino.load import load_dino
from dinotile.flux_patch.checkpoint import load_adapter, new_adapter
from dinotile.flux_patch.families import plan_tiles
from dinotile.hosts.diffusers.load import load_transformer, load_vae
from dinotile.upscaling.pipeline import MakeGuide, upscale
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from . import classifier, controlnet, knowing, reader, reference, selftaught
from .captions import Captioned
from .guides import Dropped, Elsewhere, PerTile, Read, words
from .measure import Scores, measure
from .rows import FORMS, FROM_SOURCE, LEVELS, SELFTAUGHT, SETTINGS, Row
from .rows import NETS as TRAINED_NETS

WORK = Path(__file__).parent / "work"  # what train.py makes and git does not keep
PLAN = plan_tiles(world.SIDE, world.SIDE, tile=SETTINGS.tile, overlap=SETTINGS.overlap, fit=SETTINGS.tile_fit)
FROM_SOURCE_ADAPTER = Path(__file__).with_name("from_source_adapter.safetensors")
SHIPPED_ADAPTERS = {SELFTAUGHT: selftaught.ADAPTER, FROM_SOURCE: FROM_SOURCE_ADAPTER}  # beside the demo's
HELD_OUT = 2 * 10**6  # seeds of scenes from here on are looked at here only
NETS = {
    "controlnet": controlnet.FILE,
    "knowing": knowing.FILE,
    **{name: WORK / path for name, path in TRAINED_NETS.items()},
}


def run(
    row: Row,
    scenes: Sequence[world.Scene],
    *,
    seeds: int,
    settings: UpscaleSettings,
    judge: classifier.TextureClassifier,
    sources: Sequence[np.ndarray] | None = None,
    flux: Path = demo.FLUX,
) -> list[list[Scores]]:
    """The scores of every scene with every seed. sources: other ones than the scenes' own, flat ones. flux: its folder."""
    if row.features == "other" and len(scenes) < 2:
        raise ValueError("features of another picture need two pictures or more")
    if row.reads:
        return [[reader.scores(scene, row.tile)] for scene in scenes]
    settings = settings_of(row, settings)
    upscaler = build(row, flux)
    scores = []
    for index, scene in enumerate(scenes):
        source, shown = as_pixels(scene.source() if sources is None else sources[index]), None
        if row.features in ("other", "exchanged"):
            shown = scenes[index - 1] if row.features == "other" else scene.exchanged(np.random.default_rng(index))
        guide = guide_of(row, upscaler, None if shown is None else as_pixels(shown.source()))
        measured = []
        for seed in range(seeds):
            chosen = replace(settings, seed=seed_of(index) + seed)
            if row.told == "nothing":
                pixels, _ = upscaler.upscale(source, chosen, make_guide=guide)
            else:
                sampler = Captioned(upscaler.host, scene, chosen, whole=row.told == "picture")
                pixels, _ = upscale(upscaler.host, source, chosen, sampler=sampler, make_guide=guide)
            measured.append(measure(pixels, scene, PLAN, judge, shown=shown))
        scores.append(measured)
    return scores


def settings_of(row: Row, settings: UpscaleSettings = SETTINGS) -> UpscaleSettings:
    return replace(
        settings,
        tile=row.tile,
        overlap=row.overlap,
        dino_strength=row.strength,
        dino_guidance=row.guidance,
        controlnet_strength=row.controlnet,
        anchor=row.anchor,
    )


def seed_of(index: int) -> int:
    """The first noise seed of a scene."""
    return 1000 * index


def build(row: Row, path: Path = demo.FLUX) -> Upscaler:
    """The demo's models with the row's adapter. path: of FLUX."""
    net, vae = None, load_vae(demo.VAE)
    flux = load_transformer(NETS[row.net].parent if row.net == "reference" else path)
    if row.controlnet:
        net = reference.new_reference(flux) if row.net == "reference" else controlnet.load(flux, NETS[row.net])
    if not row.adapter:
        return Upscaler(flux, vae, controlnet=net)
    adapter = load_adapter(file_of(row))
    if row.adapter == "untrained":
        adapter = new_adapter(adapter.config)
    # as many tokens per px as in the tiles
    adapter.module.config = replace(adapter.config, grid=adapter.config.grid * row.tile // SETTINGS.tile)
    seen = {
        SELFTAUGHT: selftaught.FILE,
        FORMS: WORK / f"{FORMS}.safetensors",
        LEVELS: WORK / LEVELS / "dino.safetensors",
    }
    dino = load_dino(seen.get(row.adapter.partition("-seed-")[0], demo.DINO))
    return Upscaler(flux, vae, controlnet=net, dino=dino, adapter=adapter)


def adapter_of(name: str) -> Path:
    """Where train.py puts an adapter."""
    return WORK / "adapters" / f"{name}.safetensors"


def file_of(row: Row) -> Path:
    """The file of a row's adapter; an untrained one has the form of the demo's."""
    shipped = {"demo": demo.ADAPTER, "untrained": demo.ADAPTER, **SHIPPED_ADAPTERS}
    return shipped.get(row.adapter, adapter_of(row.adapter))


def guide_of(row: Row, upscaler: Upscaler, shown: Tensor | None = None) -> MakeGuide | None:
    """Who looks at the row's pictures; shown: at this one [1, 3, h, w] instead."""
    if not row.adapter:
        return None
    whole = upscaler.guide(strength=row.strength)
    if shown is not None:
        return Elsewhere(whole, shown)
    if row.features == "dropped":
        return Dropped(whole)
    if row.features == "read":
        return Read(whole, *words(whole), reader.load())
    if row.features in ("per tile", "both"):
        return PerTile(whole, upscaler.host.adapter.config.grid, both=row.features == "both")
    return whole


def as_pixels(picture: np.ndarray) -> Tensor:
    """[H, W, 3] in 0..1 -> [1, 3, H, W]."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float()
