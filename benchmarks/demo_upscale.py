"""What the demo models do to a photo that they never saw: `python benchmarks/demo_upscale.py`.

Shrinks scikit-image's cat (held out of all training) by 2, upscales it by 2 in tiles and untiled with one seed, and prints
PSNR to the original beside bicubic's (with the command line's fidelity of 1, and with FLUX alone), the step
across tile borders beside the untiled run's, and the seconds by stage.
"""

import argparse
from pathlib import Path

import torch

from dinotile.benchmarks.figures import about, publish
from dinotile.demo.train.pictures import held_out, psnr
from dinotile.files.pixels import resize
from dinotile.flux_patch.families import plan_tiles
from dinotile.tiling.seams import border_ratio
from dinotile.upscaling.api import load_upscaler
from dinotile.upscaling.settings import settings_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--denoise", type=float, default=0.3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    true = held_out()
    height, width = true.shape[2:]
    small = resize(true, height=height // 2, width=width // 2)
    bicubic = psnr(resize(small, height=height, width=width), true)
    upscaler = load_upscaler("demo")
    chosen = {"denoise": options.denoise, "seed": options.seed}
    tiled, report = upscaler.upscale(small, settings_for("demo", **chosen))
    alone, _ = upscaler.upscale(small, settings_for("demo", fidelity=0.0, **chosen))
    alone_whole, _ = upscaler.upscale(small, settings_for("demo", fidelity=0.0, tile=512, **chosen))
    whole, _ = upscaler.upscale(small, settings_for("demo", tile=512, **chosen))
    _, again = upscaler.upscale(small, settings_for("demo", **{**chosen, "seed": options.seed + 1}))
    plan = plan_tiles(height, width, tile=report["tiles"]["height"], overlap=report["tiles"]["overlap"])
    figures = {
        "picture": f"{width // 2} x {height // 2} to {width} x {height} px in {plan.count} tiles",
        "psnr_bicubic_db": round(bicubic, 2),
        "psnr_demo_db": round(psnr(tiled, true), 2),
        "psnr_demo_untiled_db": round(psnr(whole, true), 2),
        "psnr_demo_fidelity_0_db": round(psnr(alone, true), 2),
        "border_ratio_fidelity_0_tiled": round(border_ratio(alone, plan), 4),
        "border_ratio_fidelity_0_untiled": round(border_ratio(alone_whole, plan), 4),
        "border_ratio_tiled": round(border_ratio(tiled, plan), 4),
        "border_ratio_untiled": round(border_ratio(whole, plan), 4),
        "seconds": {stage: round(value, 3) for stage, value in report["seconds"].items()},
        "dino_seconds_second_seed": round(again["seconds"]["dino"], 4),
        **about(torch.device("cpu")),
    }
    publish(figures, options.json)


if __name__ == "__main__":
    main()
