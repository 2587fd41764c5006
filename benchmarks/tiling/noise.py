"""How far joint and sequential results are apart, with equal noise and with other: `python -m benchmarks.tiling.noise`.

The demo's photo at 2x in tiles of 256 px, without DINO and back-projection: PSNR, dB, of the results of two runs, at several
denoises, and of joint mode at another seed beside them. --json writes the figures.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from dinotile.benchmarks.figures import about, publish
from dinotile.demo import SAMPLE
from dinotile.files.pictures import load_picture
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import UpscaleSettings

SETTINGS = UpscaleSettings(scale=2, tile=256, overlap=32, steps=6, dino_strength=0)
RUNS = {
    "joint, canvas": {"mode": "joint"},
    "joint, place": {"mode": "joint", "noise": "place"},
    "sequential": {"mode": "sequential"},
    "joint, another seed": {"mode": "joint", "seed": 1},
}


def psnr(one: Tensor, other: Tensor) -> float:
    """dB, of pictures in 0..1."""
    return float(-10 * (one - other).square().mean().log10())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--denoise", type=float, nargs="+", default=[0.3, 0.5])
    options = parser.parse_args()
    upscaler, source = load_upscaler(device="cpu"), load_picture(SAMPLE).pixels
    figures = []
    for denoise in options.denoise:
        results = {
            name: upscaler.upscale(source, replace(SETTINGS, denoise=denoise, **run))[0] for name, run in RUNS.items()
        }
        for one, other in combinations(results, 2):
            found = {"denoise": denoise, "runs": [one, other], "psnr": round(psnr(results[one], results[other]), 2)}
            figures.append(found)
            print(found, flush=True)
    publish({"about": about(torch.device("cpu")), "figures": figures}, options.json)


if __name__ == "__main__":
    main()
