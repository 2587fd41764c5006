"""Windows that move beside windows that stay, in the world whose textures are known.

``python -m benchmarks.semantics.moving`` redraws the same scenes with the shipped adapter and without DINO, and prints for every
kind of windows what is sampled for a pixel of the output, and what ``measure`` counts. Seams are steps at the borders that the
tiles of the last step have, which are the borders that nothing draws over. --json writes all numbers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dinotile.demo.train import world
from dinotile.flux_patch.families import plan_tiles
from dinotile.tiling.moving import moved
from dinotile.tiling.plan import Fit, TilePlan
from dinotile.upscaling.settings import UpscaleSettings

from ..figures import about, publish
from . import classifier
from .measure import Scores, measure, summary
from .rows import SETTINGS, Row
from .runs import HELD_OUT, as_pixels, build, guide_of, seed_of


@dataclass(frozen=True)
class Windows:
    fit: Fit
    overlap: int
    moving: bool

    @property
    def name(self) -> str:
        return f"{'moving' if self.moving else 'still'}, {self.fit}, overlap {self.overlap}"

    def plan(self, *, step: int, seed: int) -> TilePlan:
        plan = plan_tiles(world.SIDE, world.SIDE, tile=SETTINGS.tile, overlap=self.overlap, fit=self.fit)
        return moved(plan, step=step, seed=seed) if self.moving else plan


WINDOWS = (
    Windows("exact", 32, False),
    Windows("balanced", 32, False),
    *(Windows("balanced", overlap, moving) for overlap in (16, 0) for moving in (False, True)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10, help="at least 2")
    parser.add_argument("--denoise", type=float, default=SETTINGS.denoise)
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = replace(SETTINGS, denoise=options.denoise, steps=options.steps)
    scenes = [world.scene(np.random.default_rng(HELD_OUT + index)) for index in range(options.pictures)]
    judge, rows = classifier.load(), {}
    print("| windows | DINO | sampled/output | right texture | agreement | sharpness | colour error | seams |")
    for adapter, told in (("demo", "with"), ("", "without")):
        for windows in WINDOWS:
            start = time.perf_counter()
            scores = run(windows, Row(told, adapter=adapter), scenes, settings=settings, judge=judge)
            found = summary([[score] for score in scores])
            work = windows.plan(step=0, seed=0).work
            rows[f"{windows.name}, {told} DINO"] = {"sampled_over_output": round(work, 4), **found}
            print(line(windows.name, told, work, found), f"  {time.perf_counter() - start:.0f} s", flush=True)
    told = {"pictures": options.pictures, "settings": asdict(settings), **about(torch.device("cpu"))}
    publish({"rows": rows, **told}, options.json)


def run(
    windows: Windows,
    row: Row,
    scenes: Sequence[world.Scene],
    *,
    settings: UpscaleSettings,
    judge: classifier.TextureClassifier,
) -> list[Scores]:
    """The scores of every scene."""
    upscaler, scores = build(row), []
    settings = replace(settings, tile_fit=windows.fit, overlap=windows.overlap, moving=windows.moving)
    for index, scene in enumerate(scenes):
        seed = seed_of(index)
        pixels, _ = upscaler.upscale(
            as_pixels(scene.source()), replace(settings, seed=seed), make_guide=guide_of(row, upscaler)
        )
        scores.append(measure(pixels, scene, windows.plan(step=settings.steps - 1, seed=seed), judge))
    return scores


def line(name: str, told: str, work: float, found: dict[str, Any]) -> str:
    """A row of a Markdown table."""
    cells = [f"{100 * found[key][0]:.0f} % +- {100 * found[key][1]:.0f}" for key in ("accuracy", "agreement")]
    cells += [f"{found[key][0]:.2f} +- {found[key][1]:.2f}" for key in ("sharpness", "colour", "seams")]
    return f"| {name} | {told} | {work:.2f} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
