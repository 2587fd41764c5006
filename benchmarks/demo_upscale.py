"""What the demo models do to a photo that they never saw: `python benchmarks/demo_upscale.py`.

Shrinks scikit-image's cat (held out of all training) by 2, upscales it by 2 in tiles and untiled with one seed, and prints
PSNR to the original beside bicubic's and the upscaler's (as the command line has it, and with neither fidelity nor VAE
detail, so that nothing is put back), the step across tile borders beside the untiled run's, and the seconds by stage. --picture
draws the README's picture of it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from dinotile.benchmarks.figures import about, publish
from dinotile.demo import UPSCALER
from dinotile.demo.train.pictures import held_out, psnr
from dinotile.files.pictures import to_image
from dinotile.files.pixels import resize
from dinotile.flux_patch.families import plan_tiles
from dinotile.hosts.diffusers.upscale_model import enlarge, load_upscale_model
from dinotile.tiling.seams import border_ratio
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for

WINDOW = (..., slice(40, 232), slice(96, 352))  # rows, columns of the original that the picture shows
ZOOM, BAR = 2, 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--denoise", type=float, default=0.3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--picture", type=Path, help="draw source, bicubic, result and original here")
    options = parser.parse_args()
    true = held_out()
    height, width = true.shape[2:]
    small = resize(true, height=height // 2, width=width // 2)
    bicubic = resize(small, height=height, width=width)
    upscaler = load_upscaler("demo")

    def run(**changes: float) -> tuple[Tensor, dict[str, Any]]:
        chosen = {"denoise": options.denoise, "seed": options.seed, **changes}
        return upscaler.upscale(small, settings_for("demo", **chosen))

    bare = {"fidelity": 0.0, "vae_detail": 0.0}
    (tiled, report), (_, again) = run(), run(seed=options.seed + 1)
    (whole, _), (alone, _), (alone_whole, _) = run(tile=512), run(**bare), run(**bare, tile=512)
    usual = settings_for("demo")
    plan = plan_tiles(height, width, tile=usual.tile, overlap=usual.overlap)
    figures = {
        "picture": f"{width // 2} x {height // 2} to {width} x {height} px in {plan.count} tiles",
        "psnr_bicubic_db": round(psnr(bicubic, true), 2),
        "psnr_upscaler_db": round(psnr(enlarge(load_upscale_model(UPSCALER), small, device=small.device), true), 2),
        "psnr_demo_db": round(psnr(tiled, true), 2),
        "psnr_demo_untiled_db": round(psnr(whole, true), 2),
        "psnr_demo_nothing_put_back_db": round(psnr(alone, true), 2),
        "border_ratio_nothing_put_back_tiled": round(border_ratio(alone, plan), 4),
        "border_ratio_nothing_put_back_untiled": round(border_ratio(alone_whole, plan), 4),
        "border_ratio_tiled": round(border_ratio(tiled, plan), 4),
        "border_ratio_untiled": round(border_ratio(whole, plan), 4),
        "seconds": {stage: round(value, 3) for stage, value in report["seconds"].items()},
        "dino_seconds_second_seed": round(again["seconds"]["dino"], 4),
        **about(torch.device("cpu")),
    }
    publish(figures, options.json)
    if options.picture is not None:
        source = {f"source, {width // 2} x {height // 2}": interpolate(small, scale_factor=2)}
        draw({**source, "bicubic": bicubic, "DINOTile, demo models": tiled, "original": true}, options.picture)


def draw(panels: dict[str, Tensor], path: Path) -> None:
    """Four pictures of one size, two by two, with their names."""
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
