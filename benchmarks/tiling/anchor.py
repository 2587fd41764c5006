"""What the anchor does to tiles one after the other, beside joint mode: `python -m benchmarks.tiling.anchor`.

The demo's photo at 2x in tiles of 256 px, denoise 0.5, without DINO and back-projection: how far the result, shrunk again, is off
the source (RMS, levels of 255), how tiles meet (the score of tiling.seams), and seconds. --json writes the figures.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from dinotile.benchmarks.figures import about, publish
from dinotile.demo import SAMPLE
from dinotile.files.pictures import load_picture
from dinotile.files.pixels import resize
from dinotile.tiling.seams import measure_seams
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import UpscaleSettings

SETTINGS = UpscaleSettings(scale=2, tile=256, overlap=32, denoise=0.5, steps=6, dino_strength=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    upscaler, source = load_upscaler(device="cpu"), load_picture(SAMPLE).pixels
    figures = []
    for mode in ("joint", "sequential"):
        for anchor in (0.0, 1.0):
            result, report = upscaler.upscale(source, replace(SETTINGS, mode=mode, anchor=anchor))
            height, width = result.shape[-2:]
            plan = upscaler.host.latents.plan_tiles(height, width, tile=SETTINGS.tile, overlap=SETTINGS.overlap)
            apart = resize(result, height=source.shape[-2], width=source.shape[-1]) - source
            seams = measure_seams(result, plan, source=resize(source, height=height, width=width)).summary()["score"]
            figures.append(
                {
                    "mode": mode,
                    "anchor": anchor,
                    "off the source": round(float(apart.square().mean().sqrt()) * 255, 2),
                    "seams": round(seams, 4),
                    "seconds": report["seconds"],
                }
            )
            print(figures[-1], flush=True)
    publish({"about": about(torch.device("cpu")), "figures": figures}, options.json)


if __name__ == "__main__":
    main()
