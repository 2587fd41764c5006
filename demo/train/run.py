"""Trains the demo's models from scratch on a CPU: `python -m dinotile.demo.train --part all --minutes 20`.

--minutes is the time for each part. FLUX needs the VAE's file, the decoder's polish needs both, flat needs DINO's; VAE, DINO and
the upscaler need nothing.
The adapter is trained by `python -m benchmarks.semantics.train`, with the package's own trainer. Two cores with bf16
matrix units (AMX) do it all in about two hours. pictures.py lists what they learn from and what is held out: skimage's
cat "chelsea" is never trained on.
"""

import argparse
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from . import decoder, dino, flat, flux, upscaler, vae

PARTS = ("vae", "dino", "flux", "decoder", "upscaler", "flat")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dinotile.demo.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--minutes", type=float, default=20.0, help="time for each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for checkpoints and logs; the same command goes on from there")
    parser.add_argument("--compile", action="store_true", help="FLUX half again as fast, with a C++ compiler")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parts = PARTS if options.part == "all" else (options.part,)
    minutes = dict.fromkeys(parts, options.minutes)
    train(minutes, seed=options.seed, compiled=options.compile, folder=options.folder)


def train(minutes: Mapping[str, float], *, seed: int, compiled: bool = False, folder: Path | None = None) -> None:
    """Trains the parts that `minutes` names, in the order in which they need each other."""
    trainings = {
        "vae": vae.train,
        "dino": dino.train,
        "flux": partial(flux.train, compiled=compiled),
        "decoder": decoder.train,
        "upscaler": upscaler.train,
        "flat": flat.train,
    }
    for part, training in trainings.items():
        if part in minutes:
            training(minutes=minutes[part], seed=seed, folder=folder and folder / part)
