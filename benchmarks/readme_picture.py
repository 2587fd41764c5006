"""The README's picture: `python benchmarks/readme_picture.py`. The held-out cat: source, bicubic, DINOTile, original."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch.nn.functional import interpolate

from dinotile.demo import DEMO
from dinotile.demo.train.pictures import held_out
from dinotile.files.pictures import to_image
from dinotile.files.pixels import resize
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for

WINDOW = (..., slice(40, 232), slice(96, 352))  # rows, columns of the original
ZOOM, BAR = 2, 28


def main(path: Path = DEMO / "picture.jpg") -> None:
    true = held_out()
    height, width = true.shape[2:]
    small = resize(true, height=height // 2, width=width // 2)
    result, _ = load_upscaler("demo").upscale(small, settings_for("demo"))
    panels = {
        f"source, {width // 2} x {height // 2}": interpolate(small, scale_factor=2),
        "bicubic": resize(small, height=height, width=width),
        "DINOTile, demo models": result,
        "original": true,
    }
    shown = [to_image(interpolate(pixels[WINDOW], scale_factor=ZOOM)) for pixels in panels.values()]
    side, tall = shown[0].width, shown[0].height + BAR
    sheet = Image.new("RGB", (2 * side, 2 * tall), "white")
    for index, (name, picture) in enumerate(zip(panels, shown, strict=True)):
        left, top = index % 2 * side, index // 2 * tall
        sheet.paste(picture, (left, top + BAR))
        ImageDraw.Draw(sheet).text((left + 6, top + 5), name, fill="black", font=ImageFont.load_default(16))
    sheet.save(path, quality=88)


if __name__ == "__main__":
    main()
