"""The semantics pictures: `python -m benchmarks.semantics.picture` draws benchmarks/results/semantics.jpg, held-out scenes as
source, with a tile ControlNet alone, with DINO besides, and as they truly are. With `--from-source` it draws
semantics_from_source.jpg, the same at denoise 0.5, by FLUX alone and with an adapter whose rows began at the source."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from dinotile.demo.train import world
from dinotile.files.pictures import to_image
from dinotile.files.pixels import resize

from .rows import ROWS, SETTINGS
from .runs import HELD_OUT, as_pixels, build, seed_of, settings_of
from .table import RESULT

SHOWN = {
    "ControlNet, no DINO": "tile ControlNet",
    "ControlNet, DINO": "tile ControlNet and DINO",
}  # rows, and their titles
FROM_SOURCE = {"no DINO": "FLUX at denoise 0.5", "from the source, DINO": "FLUX at denoise 0.5 and DINO"}
BAR = 26  # px of the line of titles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--from-source", action="store_true", help="at denoise 0.5, without a ControlNet")
    parser.add_argument("-o", "--output", type=Path, help="default: in benchmarks/results")
    options = parser.parse_args()
    shown_rows = FROM_SOURCE if options.from_source else SHOWN
    usual = replace(SETTINGS, denoise=0.5, steps=12) if options.from_source else SETTINGS
    output = options.output or RESULT.with_name(f"semantics{'_from_source' * options.from_source}.jpg")
    rows = {row.name: row for row in ROWS}
    upscalers = [(build(rows[name]), settings_of(rows[name], usual)) for name in shown_rows]
    lines = []
    for index in options.scenes:
        scene = world.scene(np.random.default_rng(HELD_OUT + index))
        source = as_pixels(scene.source())
        shown = [resize(source, height=world.SIDE, width=world.SIDE)]
        for upscaler, settings in upscalers:
            shown.append(upscaler.upscale(source, replace(settings, seed=seed_of(index)))[0])
        lines.append(torch.cat([*shown, as_pixels(scene.true())], dim=3))
    scenes = to_image(torch.cat(lines, dim=2))
    picture = Image.new("RGB", (scenes.width, scenes.height + BAR), "white")
    picture.paste(scenes, (0, BAR))
    draw = ImageDraw.Draw(picture)
    for column, title in enumerate(("source, enlarged", *shown_rows.values(), "truth")):
        draw.text((column * world.SIDE + 8, 4), title, fill="black", font=ImageFont.load_default(16))
    picture.save(output, quality=88)
    print(output)


if __name__ == "__main__":
    main()
