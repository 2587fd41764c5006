"""What *color_match* does to colours, detail and tile borders:
`python -m benchmarks.semantics.color_match --pictures 3 -o benchmarks/results/color_match.json`.

Every result is sampled once, without fidelity or VAE detail, which would put colours back too, and then matched in each way, as
`dinotile upscale --color-match` does. *photo*: the demo on scikit-image's cat, shrunk and enlarged by 2. *world*: held-out
pictures of the benchmark world at its table's settings, with DINO and without. Colour errors are mean
absolute differences over 32 px, in 1/255, to the original, in the world to its flat picture, as in its table; seams the score of
``tiling/seams.py``, 0 is neutral.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dinotile.demo.train import world
from dinotile.demo.train.pictures import held_out, psnr
from dinotile.files.pixels import resize
from dinotile.flux_patch.families import plan_tiles
from dinotile.tiling.color_match import MATCHES, match_color
from dinotile.tiling.plan import TilePlan
from dinotile.tiling.seams import measure_seams
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for

from ..figures import about
from . import classifier, runs
from .measure import measure
from .rows import ROWS

WORLD = "no DINO", "DINO: cross_attention, the shipped adapter"  # rows of its table
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4, help="of the world (default: 4)")
    parser.add_argument("--denoise", type=float, nargs="*", default=[0.3, 0.5, 0.7], help="of the photo")
    parser.add_argument(
        "--rows", nargs="*", choices=[row.name for row in ROWS], default=list(WORLD), help="of its table"
    )
    parser.add_argument("-o", "--output", type=Path, help="JSON file")
    options = parser.parse_args()
    found: dict[str, dict[str, Figures]] = {}
    for name, figures in (*photo(options.denoise), *worlds(options.pictures, options.rows)):
        found[name] = figures
        print(f"\n{name}")
        for way, row in figures.items():
            print(f"{way:12}", "  ".join(f"{figure} {value:.4g}" for figure, value in row.items()), flush=True)
    if options.output is not None:
        told = {**about(torch.device("cpu")), "pictures": options.pictures}
        options.output.write_text(json.dumps({"about": told, "rows": found}, indent=1) + "\n")


def photo(denoises: Sequence[float]) -> list[tuple[str, dict[str, Figures]]]:
    true = held_out()
    height, width = true.shape[2:]
    small = resize(true, height=height // 2, width=width // 2)
    usual, upscaler = settings_for("demo", fidelity=0.0, vae_detail=0.0), load_upscaler("demo")
    plan = plan_tiles(height, width, tile=usual.tile, overlap=usual.overlap)
    larger = resize(small, height=height, width=width)

    def judged(pixels: Tensor) -> Figures:
        return {"colour error": colour(pixels, true), "psnr": psnr(pixels, true), **seams(pixels, plan, larger)}

    found = []
    for denoise in denoises:
        pixels, _ = upscaler.upscale(small, replace(usual, denoise=denoise))
        found.append((f"photo, denoise {denoise:g}", matched(pixels, larger, plan, judged)))
    return found


def worlds(pictures: int, rows: Sequence[str]) -> list[tuple[str, dict[str, Figures]]]:
    judge, plan = classifier.load(), runs.PLAN
    scenes = [world.scene(np.random.default_rng(runs.HELD_OUT + index)) for index in range(pictures)]
    found = []
    for row in (row for row in ROWS if row.name in rows):
        upscaler, each = runs.build(row), []
        for index, scene in enumerate(scenes):
            settings = replace(runs.settings_of(row), seed=runs.seed_of(index))
            source, true = runs.as_pixels(scene.source()), runs.as_pixels(scene.true())
            pixels, _ = upscaler.upscale(source, settings)
            larger = resize(source, height=pixels.shape[2], width=pixels.shape[3])

            def judged(
                pixels: Tensor, scene: world.Scene = scene, larger: Tensor = larger, true: Tensor = true
            ) -> Figures:
                told = measure(pixels, scene, plan, judge)
                scores = {"colour error": told.colour, "right texture": told.accuracy, "sharpness": told.sharpness}
                return {**scores, "psnr": psnr(pixels, true), **seams(pixels, plan, larger)}

            each.append(matched(pixels, larger, plan, judged))
        means = {way: {name: fmean(one[way][name] for one in each) for name in each[0][way]} for way in MATCHES}
        found.append((f"world, {pictures} pictures, {row.name}", means))
    return found


def matched(pixels: Tensor, larger: Tensor, plan: TilePlan, judged: Callable[[Tensor], Figures]) -> dict[str, Figures]:
    """The figures of a result in each way."""
    return {way: rounded(judged(match_color(pixels, larger, way=way, plan=plan))) for way in MATCHES}


def rounded(figures: dict[str, Any]) -> Figures:
    return {name: round(float(value), 4) for name, value in figures.items()}


def colour(pixels: Tensor, true: Tensor) -> float:
    return float((avg_pool2d(pixels, 32) - avg_pool2d(true, 32)).abs().mean() * 255)


def seams(pixels: Tensor, plan: TilePlan, larger: Tensor) -> Figures:
    return {"seams": measure_seams(pixels, plan, source=larger).summary()["score"]}


if __name__ == "__main__":
    main()
