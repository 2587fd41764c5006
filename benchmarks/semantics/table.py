"""The semantics table: `python -m benchmarks.semantics.table` upscales held-out pictures of the world in every way and
counts. One run, the same pictures, seeds and tiles for every row; results/semantics.json holds all numbers.

Needs the files that train.py makes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinotile import demo
from dinotile.demo import world
from dinotile.dino.encode import DinoEncoder, EncodeSettings
from dinotile.dino.feature_map import FeatureMap
from dinotile.dino.load import load_dino
from dinotile.flux_patch.adapter import DinoAdapter
from dinotile.flux_patch.checkpoint import load_adapter, new_adapter
from dinotile.flux_patch.rows import WHOLE, DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.standalone import vae as vae_path
from dinotile.standalone.engine import Upscaler
from dinotile.standalone.load import load_transformer, load_vae
from dinotile.standalone.sampler import TileRow
from dinotile.standalone.settings import UpscaleSettings
from dinotile.tiling.canvas import resize
from dinotile.tiling.plan import plan_tiles

from . import classifier
from .measure import Scores, cell_labels, measure, summary

WORK = Path(__file__).parent / "work"  # what train.py makes and git does not keep
RESULT = Path(__file__).parents[1] / "results" / "semantics.json"
SETTINGS = UpscaleSettings(
    scale=world.FACTOR, strength=0.9, steps=12, tile=128, overlap=32, dino_strength=1.0, fidelity=0.0
)
PLAN = plan_tiles(world.SIDE, world.SIDE, tile=SETTINGS.tile, overlap=SETTINGS.overlap, grid=16)
HELD_OUT = 10**6  # seeds of scenes from here on are never trained on

Source = Callable[[world.Scene], world.Scene]


@dataclass(frozen=True)
class Row:
    """adapter: a file in WORK/adapters, "demo" for the shipped one, or empty. features: whose and how taken. tile: px."""

    name: str
    adapter: str = "demo"
    strength: float = 1.0
    features: str = "own"
    tile: int = SETTINGS.tile


ROWS = (
    Row("no DINO", adapter=""),
    Row("untrained adapter", adapter="untrained"),
    Row("DINO (the shipped adapter)"),
    Row("features of another picture", features="other"),
    Row("features of the same places, objects exchanged", features="exchanged"),
    Row("strength 0", strength=0.0),
    Row("strength 0.25", strength=0.25),
    Row("strength 0.5", strength=0.5),
    Row("strength 1.5", strength=1.5),
    Row("features extracted per tile", features="per tile"),
    Row("features of picture and tile averaged", features="both"),
    Row("no DINO, untiled", adapter="", tile=world.SIDE),
    Row("DINO, untiled", tile=world.SIDE),
    Row("context", adapter="context"),
    Row("vector", adapter="vector"),
    Row("all three", adapter="all"),
    Row("cross_attention, grid 4", adapter="grid-4"),
    Row("cross_attention, grid 16", adapter="grid-16"),
    Row("cross_attention without positions", adapter="no-positions"),
    Row("cross_attention, layer 1 of 4", adapter="layer-1"),
    Row("cross_attention, layer 2 of 4", adapter="layer-2"),
    Row("cross_attention, layer 4 of 4", adapter="layer-4"),
)


class Elsewhere:
    """A DINO encoder that looks at another picture than it is given."""

    def __init__(self, encoder: DinoEncoder, pixels: Tensor) -> None:
        self.encoder, self.pixels = encoder, pixels
        self.spec, self.model = encoder.spec, encoder.model

    def encode(self, pixels: Tensor, **keywords: Any) -> FeatureMap:
        return self.encoder.encode(self.pixels, **keywords)


@dataclass(frozen=True)
class PerTile:
    """What engine._Guide is, with features that are extracted from every tile alone, or averaged with the picture's."""

    adapter: DinoAdapter
    encoder: DinoEncoder
    pixels: Tensor  # [1, 3, h, w], the canvas
    whole: FeatureMap | None
    memo: dict

    @property
    def tokens(self) -> FeatureMap:
        return next(iter(self.memo.values()))

    def row(self, row: TileRow) -> DinoRow:
        key = ("tile", row.box)
        if key not in self.memo:
            box, cell = row.box, vae_path.CELL
            place = slice(box.top * cell, box.bottom * cell), slice(box.left * cell, box.right * cell)
            found = self.encoder.encode(self.pixels[(..., *place)], settings=_layers(self.adapter))
            if self.whole is not None:
                height, width = (side / cell for side in self.pixels.shape[-2:])
                fractions = (box.top / height, box.left / width, box.height / height, box.width / width)
                grid = self.adapter.config.grid
                own = found.sample([WHOLE], grid)[:, 0]
                seen = self.whole.sample([fractions], grid)[:, 0]
                found = found.with_patches((own + seen) / 2, (found.cls + self.whole.cls) / 2)
            self.memo[key] = self.adapter.project(found)
        return DinoRow(self.memo[key], 0, WHOLE, Strength(SETTINGS.dino_strength))


class TileUpscaler(Upscaler):
    """The upscaler with features per tile."""

    both = False

    def _guide(self, pixels: Tensor, settings: UpscaleSettings, *, canvas: tuple[int, int]) -> Any:
        assert self.adapter is not None and self.dino is not None
        whole = self.dino.encode(pixels, settings=self.encode_settings) if self.both else None
        guide = PerTile(self.adapter, self.dino, resize(pixels, height=canvas[0], width=canvas[1]), whole, {})
        for box in PLAN.scaled(vae_path.CELL).boxes:
            guide.row(TileRow(0, box))
        return guide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", nargs="*", help="names of rows (default: all)")
    parser.add_argument("--strength", type=float, default=SETTINGS.strength, help="denoise")
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--first", type=int, default=HELD_OUT, help="seed of the first scene")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args()
    settings = replace(SETTINGS, strength=options.strength, steps=options.steps)
    judge = classifier.load()
    scenes = [world.scene(np.random.default_rng(options.first + index)) for index in range(options.pictures)]
    results: dict[str, Any] = {}
    for row in ROWS:
        if options.rows and row.name not in options.rows:
            continue
        start = time.perf_counter()
        scores = run(row, scenes, seeds=options.seeds, settings=settings, judge=judge)
        results[row.name] = {"row": asdict(row), **_rounded(summary(scores))}
        print(line(row.name, results[row.name]), f"  {time.perf_counter() - start:.0f} s", flush=True)
    truth = [measure(as_pixels(scene.true()), scene, PLAN, judge) for scene in scenes]
    vae = load_vae(demo.VAE)
    coded = [measure(_coded(vae, scene), scene, PLAN, judge) for scene in scenes]
    for name, scores in (("truth", truth), ("truth through the VAE", coded)):
        results[name] = _rounded(summary(scores))
        print(line(name, results[name]), flush=True)
    about = {
        "command": "python -m benchmarks.semantics.table",
        "pictures": options.pictures,
        "seeds": options.seeds,
        "settings": asdict(settings),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"about": about, "rows": results}, indent=1) + "\n")


def run(
    row: Row,
    scenes: Sequence[world.Scene],
    *,
    seeds: int,
    settings: UpscaleSettings,
    judge: classifier.TextureClassifier,
) -> list[Scores]:
    """The scores of every scene with every seed."""
    settings = replace(settings, tile=row.tile, dino_strength=row.strength)
    upscaler, encoder = build(row)
    scores = []
    for index, scene in enumerate(scenes):
        wanted = None
        if row.features in ("other", "exchanged"):
            shown = scenes[index - 1] if row.features == "other" else scene.exchanged(np.random.default_rng(index))
            upscaler.dino = Elsewhere(encoder, as_pixels(shown.source()))  # type: ignore[assignment]
            wanted = cell_labels(shown)[1]
        for seed in range(seeds):
            pixels, _ = upscaler.upscale(as_pixels(scene.source()), replace(settings, seed=1000 * index + seed))
            scores.append(measure(pixels, scene, PLAN, judge, wanted=wanted))
    return scores


def build(row: Row) -> tuple[Upscaler, DinoEncoder]:
    encoder, adapter = load_dino(demo.DINO), None
    if row.adapter == "untrained":
        adapter = new_adapter(load_adapter(demo.ADAPTER).config)
    elif row.adapter:
        adapter = load_adapter(
            demo.ADAPTER if row.adapter == "demo" else WORK / "adapters" / f"{row.adapter}.safetensors"
        )
    kind = TileUpscaler if row.features in ("per tile", "both") else Upscaler
    dino = None if adapter is None else encoder
    upscaler = kind(load_transformer(demo.FLUX), load_vae(demo.VAE), dino=dino, adapter=adapter)
    if isinstance(upscaler, TileUpscaler):
        upscaler.both = row.features == "both"
    return upscaler, encoder


def line(name: str, found: dict[str, Any]) -> str:
    cells = [f"{100 * found[key][0]:5.1f} +- {100 * found[key][1]:4.1f} %" for key in ("accuracy", "agreement")]
    cells += [f"{found[key][0]:.3f} +- {found[key][1]:.3f}" for key in ("sharpness", "colour", "seams")]
    return f"| {name:46} | {' | '.join(cells)} |"


def _rounded(found: dict[str, tuple[float, float]]) -> dict[str, list[float]]:
    return {name: [round(value, 5) for value in pair] for name, pair in found.items()}


def _layers(adapter: DinoAdapter) -> EncodeSettings:
    return EncodeSettings(layers=adapter.config.layers)


def as_pixels(picture: np.ndarray) -> Tensor:
    """[H, W, 3] in 0..1 -> [1, 3, H, W]."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float()


@torch.no_grad()
def _coded(vae: Any, scene: world.Scene) -> Tensor:
    return vae_path.decode(vae, vae_path.encode(vae, as_pixels(scene.true())))


if __name__ == "__main__":
    main()
