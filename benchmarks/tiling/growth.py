"""Time and memory as pictures grow, joint and sequential: `python -m benchmarks.tiling.growth --megapixels 1 4 9`.

Each size and mode runs in a process of its own, from a PNG file to a PNG file, with a small FLUX of random weights (small.py) or,
with --demo, the demo models in tiles of 512 px; told are seconds of wall clock and of the processor, the peak of memory, and
the seams.
--width: of all results in px, so that they grow in height only; without, they are square. --joint-most: megapixels from which on
joint mode is left out. --json writes the figures, --picture the curves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dinotile.benchmarks.figures import about, publish
from dinotile.benchmarks.tiling.small import clouds, small_upscaler
from dinotile.files.peak import process_peak
from dinotile.files.pictures import Picture, load_picture, save_picture
from dinotile.files.pixels import resize
from dinotile.files.sources import open_picture
from dinotile.flux_patch.families import FLUX1
from dinotile.tiling.seams import measure_seams
from dinotile.upscaling.api import load_upscaler, split_options, upscale_picture
from dinotile.upscaling.large import upscale_file
from dinotile.upscaling.settings import UpscaleSettings

GRID, MOST_SEAMS = 32, 16e6  # px that sides are multiples of, and of a picture whose seams are measured
SMALL = UpscaleSettings(tile=256, overlap=32, steps=2, denoise=0.4, fidelity=1, vae_detail=1, tile_batch=1)

DEMO = {"tile": 512, "overlap": 64, "denoise": 0.5, "tile_batch": 1, "device": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 4], help="of the results")
    parser.add_argument("--width", type=int, default=0, help="of all results, px")
    parser.add_argument("--joint-most", type=float, default=16, help="megapixels")
    parser.add_argument("--demo", action="store_true", help="the demo models instead of small ones")
    parser.add_argument("--steps", type=int, default=20, help="of --demo")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--picture", type=Path, help="write the curves here")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # mode, source and result, in a process of its own
    options = parser.parse_args()
    if options.one:
        mode, source, result = options.one
        print(json.dumps(one(mode, Path(source), Path(result), steps=options.demo and options.steps)))
        return
    figures = []
    for megapixels in options.megapixels:
        width = options.width or round(megapixels**0.5 * 1000 / GRID) * GRID
        height = round(megapixels * 1e6 / width / GRID) * GRID
        modes = ["joint", "sequential"] if megapixels <= options.joint_most else ["sequential"]
        figures += [measured(mode, height, width, steps=options.demo and options.steps) for mode in modes]
        print(json.dumps(figures[-len(modes) :]), flush=True)
    publish({"about": about(torch.device("cpu")), "figures": figures}, options.json)
    if options.picture is not None:
        draw(figures, options.picture)


def measured(mode: str, height: int, width: int, *, steps: int) -> dict[str, Any]:
    """steps: of the demo models; 0: of the small ones."""
    with tempfile.TemporaryDirectory() as place:
        source, result = Path(place) / "in.png", Path(place) / "out.png"
        save_picture(Picture(clouds(height // 2, width // 2)), source)
        command = [sys.executable, "-m", "dinotile.benchmarks.tiling.growth", "--one", mode, str(source), str(result)]
        run = subprocess.run(
            [*command, *(["--demo", "--steps", str(steps)] if steps else [])],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(run.stdout.splitlines()[-1])
        seams = None
        if height * width <= MOST_SEAMS and found["tiles"] > 1:
            tile, overlap = (DEMO["tile"], DEMO["overlap"]) if steps else (SMALL.tile, SMALL.overlap)
            plan = FLUX1.plan_tiles(height, width, tile=tile, overlap=overlap)
            plain = resize(load_picture(source).pixels, height=height, width=width)
            seams = round(measure_seams(load_picture(result).pixels, plan, source=plain).summary()["score"], 5)
    return {"mode": mode, "height": height, "width": width, **found, "seams": seams}


def one(mode: str, source: Path, result: Path, *, steps: int) -> dict[str, Any]:
    """A run in this process, whose peak is told with what the models and libraries take."""
    torch.set_num_threads(1)
    if steps:
        upscaler, (settings, _, _) = load_upscaler(), split_options({**DEMO, "steps": steps})
    else:
        upscaler, settings = small_upscaler(), SMALL
    before, start, busy = process_peak(), time.perf_counter(), time.process_time()
    settings = replace(settings, mode=mode)
    if mode == "joint":
        picture, report = upscale_picture(upscaler, load_picture(source), settings)
        save_picture(picture, result)
    else:
        report = upscale_file(upscaler, open_picture(source), result, settings)
    return {
        "tiles": report["tiles"]["count"],
        "seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(time.process_time() - busy, 2),
        "peak_bytes": process_peak(),
        "peak_bytes_before": before,
        "stages": report["seconds"],
    }


def draw(figures: list[dict[str, Any]], path: Path) -> None:
    """Peak memory and processor seconds over megapixels."""
    from PIL import Image, ImageDraw, ImageFont

    side, margin = 420, 60
    image = Image.new("RGB", (2 * side, side), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    for at, (title, name, unit) in enumerate(
        (("peak memory, GiB", "peak_bytes", 2**30), ("processor, s", "processor_seconds", 1))
    ):
        right = max(each["height"] * each["width"] / 1e6 for each in figures)
        top = max(each[name] / unit for each in figures)
        corner, inner = at * side + margin, side - 2 * margin
        pen.line([(corner, margin), (corner, side - margin), (corner + inner, side - margin)], fill="black")
        pen.text((corner, margin - 30), f"{title} (top: {top:.3g})", fill="black", font=font)
        pen.text((corner + inner, side - margin + 8), f"{right:.3g} megapixels", fill="black", font=font, anchor="ra")
        for mode, colour in (("joint", "#c0392b"), ("sequential", "#1f6fb2")):
            points = sorted(
                (
                    corner + inner * each["height"] * each["width"] / 1e6 / right,
                    side - margin - inner * each[name] / unit / top,
                )
                for each in figures
                if each["mode"] == mode
            )
            pen.line(points, fill=colour, width=3)
            for x, y in points:
                pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
            if points:
                pen.text((points[-1][0], points[-1][1] - 18), mode, fill=colour, font=font, anchor="ra")
    image.save(path)


if __name__ == "__main__":
    main()
