"""Where semantics must show: held-out scenes of the benchmark world (``benchmarks/semantics``) from sources 8 times
smaller, in which a texture can hardly be seen; and the same scenes drawn flat, where none may come."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from functools import partial

import numpy as np
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dinotile.demo.train import world

from ..semantics import classifier
from ..semantics.measure import measure
from ..semantics.rows import SETTINGS
from ..semantics.runs import HELD_OUT, PLAN, as_pixels
from .sweep import Subject

SMALLER = 8
SCENE_SETTINGS = replace(SETTINGS, scale=float(SMALLER))
TEXTURED, FLAT = "textured scene", "flat scene"
MEASURES = ("accuracy", "sharpness", "colour", "seams")
SCENE_DENOISE = {TEXTURED: (0.7, 0.9), FLAT: (0.9,)}


def scenes(count: int, kind: str) -> list[Subject]:
    judge, found = classifier.load(), []
    for index in range(count):
        scene = world.scene(np.random.default_rng(HELD_OUT + index))
        whole = as_pixels(scene.true() if kind == TEXTURED else scene.flat())
        judged = partial(_judged, scene=scene, judge=judge)
        found.append(Subject(f"scene {index}", kind, avg_pool2d(whole, SMALLER), judged))
    return found


def _judged(
    pixels: Tensor, biased: Collection[str], *, scene: world.Scene, judge: classifier.TextureClassifier
) -> dict[str, float]:
    """Sharpness is 0 for a picture as flat as the scene without textures and 1 for one as rich as the scene with them."""
    found = asdict(measure(pixels, scene, PLAN, judge))
    return {name: round(found[name], 5) for name in MEASURES}
