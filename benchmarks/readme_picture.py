"""The README's picture: `python benchmarks/readme_picture.py`. The held-out cat: source, bicubic, DINOTile, original."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dinotile.demo import DEMO
from dinotile.demo.train.pictures import held_out
from dinotile.files.pixels import resize
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for

WINDOW = (slice(40, 232), slice(96, 352))  # rows, columns of the original
ZOOM, BAR = 2, 28


def main(path: Path = DEMO / "picture.jpg") -> None:
    true = held_out()
    height, width = true.shape[2:]
    small = resize(true, height=height // 2, width=width // 2)
    result, _ = load_upscaler("demo").upscale(small, settings_for("demo"))
    panels = {
        f"source, {width // 2} x {height // 2}": _nearest(small),
        "bicubic": resize(small, height=height, width=width),
        "DINOTile, demo models": result,
        "original": true,
    }
    pictures = [_panel(name, pixels) for name, pixels in panels.items()]
    side, tall = pictures[0].size
    sheet = Image.new("RGB", (2 * side, 2 * tall), "white")
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % 2 * side, index // 2 * tall))
    sheet.save(path, quality=88)


def _nearest(pixels: Tensor) -> Tensor:
    return pixels.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def _panel(name: str, pixels: Tensor) -> Image.Image:
    window = pixels[0, :, WINDOW[0], WINDOW[1]].permute(1, 2, 0).clamp(0, 1).numpy()
    picture = Image.fromarray((window * 255).round().astype(np.uint8))
    picture = picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST)
    panel = Image.new("RGB", (picture.width, picture.height + BAR), "white")
    panel.paste(picture, (0, BAR))
    ImageDraw.Draw(panel).text((6, 5), name, fill="black", font=ImageFont.load_default(16))
    return panel


if __name__ == "__main__":
    main()
