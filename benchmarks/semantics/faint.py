"""Textures as faint as fine detail is: `python -m benchmarks.semantics.faint` asks what DINO does at each denoise.

The world's textures are strong: FLUX sees in the noisy source that they are missing, and at a denoise below 0.7 rightly leaves
them out, whatever it is told. Here they have a fifth of the contrast, so that at 0.5 the noise hides whether they are there.
FLUX and the adapter learned on such pictures (`train.py --part faint`); the VAE and the encoder are the demo's, sources are flat
as in the world, and the judge is shown what is not in the flat picture five times as strong.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinotile import demo
from dinotile.demo.train import flux, world
from dinotile.files.fingerprints import fingerprint
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.hosts.diffusers.load import load_transformer, load_vae

from ..figures import about, publish
from . import classifier, runs, table
from .measure import difference, measure, summary
from .rows import FAINT, SETTINGS, Row

CONTRAST = 0.06
SCENES = 240  # encoded at a time, for FLUX
FLUX = runs.WORK / FAINT
DENOISE = (0.3, 0.5, 0.7, 0.9)
ROWS = (
    Row("no DINO", adapter=""),
    Row("DINO", adapter=FAINT),
    Row("DINO, objects exchanged", adapter=FAINT, features="exchanged"),
    Row("DINO, features dropped", adapter=FAINT, features="dropped"),
    Row("no DINO, each tile's own caption", adapter="", told="tile"),
)


def scene(rng: np.random.Generator) -> world.Scene:
    """``world.scene``, with faint textures."""
    return world.scene(rng, contrast=CONTRAST)


def train(*, minutes: float, seed: int) -> None:
    """FLUX, which goes on from the demo's."""
    torch.manual_seed(seed)
    bank = flux.LatentBank(load_vae(demo.VAE), None, size=SCENES, seed=seed, draw=scene)
    flux.learn(load_transformer(demo.FLUX).float().train(), bank, FLUX, minutes=minutes, seed=seed)


def known(scenes: Sequence[world.Scene]) -> dict[str, list[Tensor]]:
    """What the judge should name, and what it should call blank: the VAE's errors are enlarged as well."""
    vae = load_vae(demo.VAE)
    true, flat = ([runs.as_pixels(draw(one)) for one in scenes] for draw in (world.Scene.true, world.Scene.flat))
    coded = ([vae_path.decode(vae, vae_path.encode(vae, pixels)) for pixels in each] for each in (true, flat))
    return dict(zip(("truth", "truth through the VAE", "flat through the VAE"), (true, *coded), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoise", nargs="*", type=float, default=DENOISE)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=SETTINGS.steps)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if missing := [path for path in (FLUX, runs.adapter_of(FAINT)) if not path.exists()]:
        raise SystemExit(f"{missing[0]} is missing: run `python -m benchmarks.semantics.train --part {FAINT}`")
    table.check_adapters()
    judge = classifier.load()
    scenes = [scene(np.random.default_rng(runs.HELD_OUT + index)) for index in range(options.pictures)]
    found: dict[str, Any] = {}
    for name, pixels in known(scenes).items():
        found[name] = table.rounded(
            summary([[measure(*each, runs.PLAN, judge)] for each in zip(pixels, scenes, strict=True)])
        )
        print(table.line(name, found[name]), flush=True)
    for denoise in options.denoise:
        settings = replace(SETTINGS, denoise=denoise, steps=options.steps)
        first = None
        for row in ROWS:
            scores = runs.run(row, scenes, seeds=options.seeds, settings=settings, judge=judge, flux=FLUX)
            first = scores if first is None else first
            name = f"{denoise}, {row.name}"
            found[name] = {**table.rounded(summary(scores)), "less no DINO": list(difference(scores, first))}
            print(table.line(name, found[name]), found[name]["less no DINO"], flush=True)
    told = {
        **about(torch.device("cpu")),
        "contrast": CONTRAST,
        **{name: getattr(options, name) for name in ("pictures", "seeds", "steps", "denoise")},
        "models": {**table.models(), "flux": fingerprint((FLUX / flux.WEIGHTS).read_bytes())[:12]},
    }
    publish({"about": told, "rows": found}, options.output)


if __name__ == "__main__":
    main()
