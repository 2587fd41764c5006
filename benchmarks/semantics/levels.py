"""Sources that show something of the textures: `python -m benchmarks.semantics.levels` counts what each row makes of them.

The table's sources are flat. Here are two more levels, both with blur, noise and JPEG as the web has them: `eighth`, the true
picture eight times smaller; and `faint`, four times smaller with textures at a quarter of their contrast. All are enlarged by
the same factor as the flat one.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from dinotile import demo
from dinotile.demo.train import dino, world
from dinotile.files.fingerprints import fingerprint
from dinotile.files.pixels import resize

from ..figures import about, publish
from . import classifier, controlnet, runs, selftaught, table
from .measure import Scores, difference, measure, summary
from .rows import LEVELS as TRAINED
from .rows import ROWS, SETTINGS

LEVELS = ("eighth", "faint", "flat")
FAINT = 0.25  # of the textures' contrast
BLUR, NOISE, QUALITY = (0.3, 0.9), (0.004, 0.02), (60, 92)  # of a spoilt source: px, share of white, JPEG
COMPARED = (
    "no DINO",
    "DINO: cross_attention, the shipped adapter",
    "from the source, DINO",
    "no DINO, each tile's own caption",
)
BESIDE = (
    "ControlNet, no DINO",
    "ControlNet, DINO",
    "ControlNet, each tile's own caption",
)  # the same with a ControlNet
LEARNED = tuple(  # without a ControlNet, and with one
    tuple(f"learned on all levels, {name}" for name in names)
    for names in (("features dropped", "DINO", "features dropped, each tile's own caption"), BESIDE)
)
DENOISE = (0.3, 0.5, 0.7, 0.9)
ENCODER, CONTROLNET = runs.WORK / TRAINED / "dino.safetensors", runs.NETS[TRAINED]
SOURCES = 360  # that the encoder learns on


def source(scene: world.Scene, level: str, *, seed: int) -> np.ndarray:
    """The source [SIDE / FACTOR, SIDE / FACTOR, 3] of a level; seed: of its noise."""
    if level == "flat":
        return scene.source()
    rng, factor = np.random.default_rng((seed, 17)), 2 * world.FACTOR if level == "eighth" else world.FACTOR
    share = FAINT if level == "faint" else 1.0
    picture = scene.flat() + share * (scene.true() - scene.flat())
    cells = world.SIDE // factor
    small = picture.reshape(cells, factor, cells, factor, 3).mean((1, 3))
    small = spoilt(small, rng)
    wanted = world.SIDE // world.FACTOR
    return resize(runs.as_pixels(small), height=wanted, width=wanted)[0].permute(1, 2, 0).clamp(0, 1).numpy()


def mixed(scene: world.Scene, index: int) -> np.ndarray:
    """The source of a scene at one of the levels, by its number."""
    return source(scene, LEVELS[index % len(LEVELS)], seed=index)


def train(*, minutes: tuple[float, float], seed: int) -> None:
    """The encoder and the ControlNet, which go on from the shipped ones with sources of every level, for these minutes."""
    torch.manual_seed(seed)
    student = dino.Student().train()
    student.encoder.load_state_dict(selftaught.load(demo.DINO).state_dict())
    sources = dino.Sources(seed=seed, count=SOURCES, shown=mixed)
    dino.learn(student, sources, ENCODER, minutes=minutes[0], seed=seed)
    controlnet.train(minutes=minutes[1], seed=seed, path=CONTROLNET, shown=mixed, begin=controlnet.FILE)


def spoilt(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A little blurred, noisy, and kept as JPEG."""
    soft = gaussian_filter(picture, (rng.uniform(*BLUR),) * 2 + (0,))
    noisy = np.clip(soft + rng.uniform(*NOISE) * rng.standard_normal(soft.shape), 0, 1)
    file = io.BytesIO()
    Image.fromarray((noisy * 255).round().astype(np.uint8)).save(file, "JPEG", quality=int(rng.integers(*QUALITY)))
    return np.asarray(Image.open(file), np.float32) / 255


def sweep(
    level: str, scenes: Sequence[world.Scene], *, denoise: Sequence[float], seeds: int, steps: int, learned: bool
) -> dict[str, Any]:
    """What the rows make of a level's sources at each denoise, at the highest one with a ControlNet too. learned: the rows of
    what learned on all levels beside them."""
    judge, rows = classifier.load(), {row.name: row for row in ROWS}
    shown = [source(scene, level, seed=runs.HELD_OUT + index) for index, scene in enumerate(scenes)]
    found = {"source": table.rounded(summary([[seen(*pair, judge)] for pair in zip(scenes, shown, strict=True)]))}
    _tell(level, "source", found["source"]["accuracy"])
    for amount in denoise:
        settings = replace(SETTINGS, denoise=amount, steps=steps)
        ways = 2 if amount == max(DENOISE) else 1
        for names in (COMPARED, BESIDE)[:ways] + LEARNED[: ways * learned]:
            counted = [
                runs.run(rows[name], scenes, seeds=seeds, settings=settings, judge=judge, sources=shown)
                for name in names
            ]
            for name, scores in zip(names, counted, strict=True):
                found[f"{amount}, {name}"] = table.rounded(summary(scores))
                found[f"{amount}, {name}"]["less the first"] = list(difference(scores, counted[0]))
                _tell(level, f"{amount}, {name}", found[f"{amount}, {name}"]["accuracy"])
    return found


def seen(scene: world.Scene, shown: np.ndarray, judge: classifier.TextureClassifier) -> Scores:
    """What the judge reads off a source that is only enlarged."""
    return measure(resize(runs.as_pixels(shown), height=world.SIDE, width=world.SIDE), scene, runs.PLAN, judge)


def _tell(level: str, name: str, found: Sequence[float]) -> None:
    print(f"{level}, {name}: {100 * found[0]:.0f} % \u00b1 {100 * found[1]:.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", nargs="*", choices=LEVELS, default=LEVELS)
    parser.add_argument("--denoise", nargs="*", type=float, default=DENOISE)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument(
        "--learned", action="store_true", help="what learned on all levels beside what learned on flat ones"
    )
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rows = table.chosen([*COMPARED, *BESIDE, *sum(LEARNED, ())] if options.learned else [*COMPARED, *BESIDE])
    scenes = [world.scene(np.random.default_rng(runs.HELD_OUT + index)) for index in range(options.pictures)]
    settings = {"denoise": options.denoise, "seeds": options.seeds, "steps": options.steps, "learned": options.learned}
    found = {level: sweep(level, scenes, **settings) for level in options.levels}
    told = {**about(torch.device("cpu")), "pictures": options.pictures, "first": runs.HELD_OUT, **settings}
    made = {
        **table.made_of(rows),
        **({"dino of all levels": fingerprint(ENCODER.read_bytes())[:12]} if options.learned else {}),
    }
    publish({"about": {**told, "models": made}, **found}, options.output)


if __name__ == "__main__":
    main()
