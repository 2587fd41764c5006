"""The semantics table: `python -m benchmarks.semantics.table` upscales held-out pictures of the world in every way and
counts. One run, the same pictures, seeds and tiles for every row; results/semantics.json holds all numbers.

Rows of the shipped models run in a fresh clone. Others need what `train.py` makes, and are left out without it: the command says
with which --part.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dinotile import demo
from dinotile.demo.train import world
from dinotile.demo.train.flux import WEIGHTS
from dinotile.dino.load import load_dino
from dinotile.files.fingerprints import fingerprint
from dinotile.files.weights import read_weights
from dinotile.flux_patch.checkpoint import load_adapter, new_adapter
from dinotile.flux_patch.families import plan_tiles
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.hosts.diffusers.load import load_transformer, load_vae
from dinotile.upscaling.pipeline import MakeGuide, upscale
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..figures import about
from . import classifier, controlnet
from .captions import Captioned
from .guides import Dropped, Elsewhere, PerTile
from .measure import Scores, measure, summary

WORK = Path(__file__).parent / "work"  # what train.py makes and git does not keep
RESULT = Path(__file__).parents[1] / "results" / "semantics.json"
SETTINGS = UpscaleSettings(
    scale=world.FACTOR,
    denoise=0.9,
    steps=24,
    tile=128,
    overlap=32,
    tile_fit="exact",
    dino_strength=1.0,
    fidelity=0.0,
)
PLAN = plan_tiles(world.SIDE, world.SIDE, tile=SETTINGS.tile, overlap=SETTINGS.overlap, fit=SETTINGS.tile_fit)
HELD_OUT = 2 * 10**6  # seeds of scenes from here on are looked at here only
DEFAULT = "cross_attention"  # the variant in WORK/adapters that is shipped
SELFTAUGHT = "selftaught"  # the variant whose encoder learned without labels; it lies in WORK under the same name


@dataclass(frozen=True)
class Row:
    """adapter: a file in WORK/adapters, "demo" for the shipped one, "untrained", or empty. features: of which picture, or
    how taken. tile: px. controlnet: its strength. told: what FLUX hears in words: nothing, what is in the whole picture, or
    in each tile. anchor: of ``UpscaleSettings``. net: the ControlNet that learned in tiles, or on whole pictures, too."""

    name: str
    adapter: str = "demo"
    strength: float = 1.0
    guidance: float = 1.0
    features: Literal["own", "other", "exchanged", "dropped", "per tile", "both"] = "own"
    tile: int = SETTINGS.tile
    controlnet: float = 0.0
    told: Literal["nothing", "picture", "tile"] = "nothing"
    anchor: float = 0.0
    net: Literal["tiles", "whole"] = "tiles"

    @property
    def shipped(self) -> bool:
        return self.adapter in ("", "demo", "untrained") and self.net == "tiles"

    def missing(self) -> str:
        """The part of train.py that makes what the row needs and WORK lacks, empty: it has all."""
        if self.net == "whole" and not (WORK / f"{self.net}.safetensors").exists():
            return "whole"
        own = self.adapter not in ("", "demo", "untrained")
        if self.adapter == SELFTAUGHT and not (WORK / f"{SELFTAUGHT}.safetensors").exists():
            return SELFTAUGHT
        if own and not (WORK / "adapters" / f"{self.adapter}.safetensors").exists():
            return f"adapters --variants {self.adapter}"
        return ""


ROWS = (
    Row("no DINO", adapter=""),
    Row("untrained adapter", adapter="untrained"),
    Row("DINO: cross_attention, the shipped adapter"),
    Row("features of another picture", features="other"),
    Row("features of the same places, objects exchanged", features="exchanged"),
    Row("features dropped: the learned null", features="dropped"),
    Row("strength 0", strength=0.0),
    Row("strength 0.25", strength=0.25),
    Row("strength 0.5", strength=0.5),
    Row("strength 1.5", strength=1.5),
    Row("guidance 2 learned, 1.5 while sampling", guidance=1.5),
    Row("features extracted per tile, not cropped", features="per tile"),
    Row("both: tokens averaged", features="both"),
    Row("no DINO, untiled", adapter="", tile=world.SIDE),
    Row("DINO, untiled", tile=world.SIDE),
    Row("no DINO, the picture's caption", adapter="", told="picture"),
    Row("no DINO, each tile's own caption", adapter="", told="tile"),
    Row("anchor, no DINO", adapter="", anchor=1.0),
    Row("anchor, DINO", anchor=1.0),
    Row("ControlNet, no DINO", adapter="", controlnet=1.0),
    Row("ControlNet, DINO", controlnet=1.0),
    Row("ControlNet, the picture's caption", adapter="", controlnet=1.0, told="picture"),
    Row("ControlNet, each tile's own caption", adapter="", controlnet=1.0, told="tile"),
    Row("ControlNet, features of another picture", controlnet=1.0, features="other"),
    Row("ControlNet, objects exchanged", controlnet=1.0, features="exchanged"),
    Row("ControlNet, features dropped", controlnet=1.0, features="dropped"),
    Row("ControlNet, no DINO, untiled", adapter="", controlnet=1.0, tile=world.SIDE),
    Row("ControlNet, DINO, untiled", controlnet=1.0, tile=world.SIDE),
    Row("ControlNet of whole pictures, no DINO", adapter="", controlnet=1.0, net="whole"),
    Row("ControlNet of whole pictures, no DINO, untiled", adapter="", controlnet=1.0, net="whole", tile=world.SIDE),
    Row("ControlNet of whole pictures, DINO", controlnet=1.0, net="whole"),
    Row("encoder without labels, DINO", adapter=SELFTAUGHT),
    Row("encoder without labels, objects exchanged", adapter=SELFTAUGHT, features="exchanged"),
    Row("encoder without labels, ControlNet, DINO", adapter=SELFTAUGHT, controlnet=1.0),
    Row(
        "encoder without labels, ControlNet, objects exchanged",
        adapter=SELFTAUGHT,
        controlnet=1.0,
        features="exchanged",
    ),
    Row("guidance 2 learned, 700 steps (shipped: 1400)", adapter="guided"),
    Row("plain: no guidance learned, 700 steps", adapter="plain"),
    Row("plain, DINO guidance 2 while sampling", adapter="plain", guidance=2.0),
    Row("plain, DINO guidance 2 while sampling, untiled", adapter="plain", guidance=2.0, tile=world.SIDE),
    Row("plain, context", adapter="context"),
    Row("plain, vector", adapter="vector"),
    Row("plain, all three", adapter="all"),
    Row("plain, sites: all blocks (else: double blocks)", adapter="all-blocks"),
    Row("plain, sites: single blocks", adapter="single-blocks"),
    Row("plain, grid 4 (else: 8)", adapter="grid-4"),
    Row("plain, grid 16", adapter="grid-16"),
    Row("plain, no positions on DINO's keys", adapter="no-positions"),
    Row("plain, layer 1 of 4 (else: 3)", adapter="layer-1"),
    Row("plain, layer 2", adapter="layer-2"),
    Row("plain, layer 4", adapter="layer-4"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10, help="at least 2")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", nargs="*", choices=[row.name for row in ROWS], help="default: all")
    parser.add_argument("--denoise", type=float, default=SETTINGS.denoise)
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--first", type=int, default=HELD_OUT, help="seed of the first scene")
    parser.add_argument("-o", "--output", type=Path, help=f"default: results/{RESULT.name}, for the whole table only")
    options = parser.parse_args()
    rows = chosen(options.rows)
    settings = replace(SETTINGS, denoise=options.denoise, steps=options.steps)
    judge = classifier.load()
    scenes = [world.scene(np.random.default_rng(options.first + index)) for index in range(options.pictures)]
    vae, true = load_vae(demo.VAE), [as_pixels(scene.true()) for scene in scenes]
    coded = [vae_path.decode(vae, vae_path.encode(vae, pixels)) for pixels in true]
    results: dict[str, Any] = {}
    for name, pictures in (("truth", true), ("truth through the VAE", coded)):
        found = [[measure(pixels, scene, PLAN, judge)] for pixels, scene in zip(pictures, scenes, strict=True)]
        results[name] = _rounded(summary(found))
        print(line(name, results[name]), flush=True)
    for row in rows:
        start = time.perf_counter()
        scores = run(row, scenes, seeds=options.seeds, settings=settings, judge=judge)
        results[row.name] = {"row": asdict(row), **_rounded(summary(scores))}
        print(line(row.name, results[row.name]), f"  {time.perf_counter() - start:.0f} s", flush=True)
    told = {
        **about(torch.device("cpu")),
        "pictures": options.pictures,
        "seeds": options.seeds,
        "first": options.first,
        "settings": asdict(settings),
        "models": {**models(), "controlnet": fingerprint(controlnet.FILE.read_bytes())[:12]},
    }
    if output := options.output or (RESULT if len(sys.argv) == 1 and len(rows) == len(ROWS) else None):
        output.parent.mkdir(exist_ok=True)
        output.write_text(json.dumps({"about": told, "rows": results}, indent=1) + "\n")


def chosen(names: Sequence[str] | None) -> list[Row]:
    """The rows of those names, or all for which the files are here; SystemExit where files of a named one are not, or are of
    other models."""
    rows = [row for row in ROWS if not names or row.name in names]
    missing = {row.name: part for row in rows if (part := row.missing())}
    told = "\n".join(
        f"{name}: run `python -m benchmarks.semantics.train --part {part}`" for name, part in missing.items()
    )
    if missing and names:
        raise SystemExit(told)
    if missing:
        print(f"left out, as what they need is missing:\n{told}", file=sys.stderr)
    rows = [row for row in rows if row.name not in missing]
    if not all(row.shipped for row in rows):
        check_adapters()
    return rows


def models() -> dict[str, str]:
    """What the adapters depend on, by the first digits of its SHA-256: FLUX, DINO, the VAE's encoder (the decoder may be
    polished later), and the world's first pictures, which show all textures."""
    encoder = {name: tensor.numpy() for name, tensor in read_weights(demo.VAE)[0].items() if "encoder" in name}
    pictures = [(world.scene(np.random.default_rng(seed)).true() * 255).round().astype(np.uint8) for seed in range(12)]
    parts = {
        "flux": (demo.FLUX / WEIGHTS).read_bytes(),
        "dino": demo.DINO.read_bytes(),
        "vae": b"".join(encoder[name].tobytes() for name in sorted(encoder)),
        "world": b"".join(picture.tobytes() for picture in pictures),
    }
    return {name: fingerprint(part)[:12] for name, part in parts.items()}


def check_adapters() -> None:
    """SystemExit where what WORK holds is of other models or another world, or where the shipped adapter is not the one in it."""
    again = "run `python -m benchmarks.semantics.train --part adapters`, then `--part demo`"
    note, default = WORK / "models.json", WORK / "adapters" / f"{DEFAULT}.safetensors"
    if not note.exists():
        raise SystemExit(f"{note} is missing: {again}")
    made, now = json.loads(note.read_text()), models()
    stale = [name for name in now if made.get(name) != now[name]]
    if stale or default.exists() and default.read_bytes() != demo.ADAPTER.read_bytes():
        other = ", ".join(stale) or "training than the demo"
        raise SystemExit(f"what {WORK} holds is of another {other}: {again}")


def run(
    row: Row,
    scenes: Sequence[world.Scene],
    *,
    seeds: int,
    settings: UpscaleSettings,
    judge: classifier.TextureClassifier,
) -> list[list[Scores]]:
    """The scores of every scene with every seed."""
    if row.features == "other" and len(scenes) < 2:
        raise ValueError("features of another picture need two pictures or more")
    settings = settings_of(row, settings)
    upscaler = build(row)
    scores = []
    for index, scene in enumerate(scenes):
        shown = None
        if row.features in ("other", "exchanged"):
            shown = scenes[index - 1] if row.features == "other" else scene.exchanged(np.random.default_rng(index))
        guide = guide_of(row, upscaler, None if shown is None else as_pixels(shown.source()))
        measured = []
        for seed in range(seeds):
            chosen = replace(settings, seed=seed_of(index) + seed)
            if row.told == "nothing":
                pixels, _ = upscaler.upscale(as_pixels(scene.source()), chosen, make_guide=guide)
            else:
                sampler = Captioned(upscaler.host, scene, chosen, whole=row.told == "picture")
                pixels, _ = upscale(upscaler.host, as_pixels(scene.source()), chosen, sampler=sampler, make_guide=guide)
            measured.append(measure(pixels, scene, PLAN, judge, shown=shown))
        scores.append(measured)
    return scores


def settings_of(row: Row, settings: UpscaleSettings = SETTINGS) -> UpscaleSettings:
    return replace(
        settings,
        tile=row.tile,
        dino_strength=row.strength,
        dino_guidance=row.guidance,
        controlnet_strength=row.controlnet,
        anchor=row.anchor,
    )


def seed_of(index: int) -> int:
    """The first noise seed of a scene."""
    return 1000 * index


def build(row: Row) -> Upscaler:
    """The demo's models with the row's adapter."""
    flux, vae = load_transformer(demo.FLUX), load_vae(demo.VAE)
    of_net = WORK / "whole.safetensors" if row.net == "whole" else controlnet.FILE
    net = controlnet.load(flux, of_net) if row.controlnet else None
    if not row.adapter:
        return Upscaler(flux, vae, controlnet=net)
    adapter = load_adapter(demo.ADAPTER if row.shipped else WORK / "adapters" / f"{row.adapter}.safetensors")
    if row.adapter == "untrained":
        adapter = new_adapter(adapter.config)
    # as many tokens per px as in the tiles
    adapter.module.config = replace(adapter.config, grid=adapter.config.grid * row.tile // SETTINGS.tile)
    dino = load_dino(WORK / f"{SELFTAUGHT}.safetensors" if row.adapter == SELFTAUGHT else demo.DINO)
    return Upscaler(flux, vae, controlnet=net, dino=dino, adapter=adapter)


def guide_of(row: Row, upscaler: Upscaler, shown: Tensor | None = None) -> MakeGuide | None:
    """Who looks at the row's pictures; shown: at this one [1, 3, h, w] instead."""
    if not row.adapter:
        return None
    whole = upscaler.guide(strength=row.strength)
    if shown is not None:
        return Elsewhere(whole, shown)
    if row.features == "dropped":
        return Dropped(whole)
    if row.features in ("per tile", "both"):
        return PerTile(whole, upscaler.host.adapter.config.grid, both=row.features == "both")
    return whole


def line(name: str, found: dict[str, Any]) -> str:
    """A row of a Markdown table."""
    shares = (found[key] for key in ("accuracy", "follows", "agreement"))
    cells = ["-" if mean is None else f"{100 * mean:.0f} % \u00b1 {100 * half:.0f}" for mean, half in shares]
    cells += [f"{found[key][0]:.2f}" for key in ("sharpness", "colour", "seams", "outline", "blank")]
    return f"| {name} | {' | '.join(cells)} |"


def _rounded(found: dict[str, tuple[float, float]]) -> dict[str, list[float | None]]:
    """JSON has no nan."""
    return {name: [None if value != value else round(value, 5) for value in pair] for name, pair in found.items()}


def as_pixels(picture: np.ndarray) -> Tensor:
    """[H, W, 3] in 0..1 -> [1, 3, H, W]."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float()


if __name__ == "__main__":
    main()
