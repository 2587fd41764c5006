"""Two rows of three tiles, one after the other."""

import torch

from dinotile.tiling.plan import plan_tiles
from dinotile.upscaling.rows import Pixels
from dinotile.upscaling.settings import UpscaleSettings

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=1, denoise=0.5, tile_fit="exact", mode="sequential")
SIZE = 56, 80  # a result of 112 x 160 px: 2 x 3 tiles
PLAN = plan_tiles(112, 160, tile=64, overlap=16, grid=16, cell=8, fit="exact")


def run(upscaler, pixels, settings=SETTINGS, **more):
    rows = []
    report = upscaler.upscale_tiles(Pixels(pixels), settings, write=rows.append, **more)
    return torch.cat(rows, dim=2), report
