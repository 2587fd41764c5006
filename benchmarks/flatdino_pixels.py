"""Pixels out of a FlatDINO's latents, beside pixels out of other codes of their size:
`python -m benchmarks.flatdino_pixels --folder FOLDER --json OUT.json --sheet OUT.png`.

The demo's FlatDINO and DINO, and pictures of 96 px: sources of the demo's world (demo/train/world.py) by number, and crops of
the photographs that the demo learned from, which are inside the wheels of scikit-image and scikit-learn. A decoder of its own is
trained by the same command's code for as many --steps, of the same crops in the same order, from

- DINO's patches as they are,
- what the FlatDINO restores, by L1 and the perceptual distance, and by the GAN from half of the steps on,
- what other codes restore from as many floats or bytes, or fewer: principal components of pictures, those of 2 x 2 and 4 x 4
  averages, and the words of single patches.

All are judged on --held other pictures of the world, and shown (--sheet) with two squares of a photograph that nothing here
learned from: a column for each picture, the true ones above. An interrupted run goes on.
"""

import argparse
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dinotile import demo
from dinotile.benchmarks.figures import about, publish
from dinotile.benchmarks.flatdino import draw
from dinotile.demo.train import world
from dinotile.demo.train.pictures import Pictures, held_out
from dinotile.dino.compress.bottleneck import Latents
from dinotile.dino.compress.checkpoint import LoadedFlat, load_flat
from dinotile.dino.compress.config import FlatConfig
from dinotile.dino.compress.features import settings_for
from dinotile.dino.compress.pixels import PixelDecoder, load_pixels
from dinotile.dino.encode import DinoEncoder
from dinotile.dino.load import load_dino
from dinotile.files.pictures import Picture, save_picture
from dinotile.files.pixels import resize
from dinotile.training.core.config import OptimisationSettings, OutputSettings
from dinotile.training.core.perceptual import DinoMaps
from dinotile.training.flatdino.baselines import HALF, of_patches, of_pictures, of_words
from dinotile.training.flatdino.fidelity import pixel_score
from dinotile.training.flatdino.patches import EncodedPatches
from dinotile.training.flatdino.pixels import FILE, train_pixels

CPU = torch.device("cpu")
SIDE, PATCH = world.SIDE // world.FACTOR, 8  # px of a picture, and of a patch of its 12 x 12
SHOWN = 6  # pictures of the world on the sheet
RATE = 2e-3  # peak; for a decoder of 64 channels


class Restoring(nn.Module):
    """What a decoder to pixels is given by some code, in the place of a FlatDINO: restored patches."""

    def __init__(self, config: FlatConfig, restore: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.config, self.restore = config, restore

    def latents(self, patches: Tensor, noise: Tensor | None = None) -> Latents:
        return Latents(self.encode(patches))

    def encode(self, patches: Tensor) -> Tensor:
        return patches

    def decode(self, patches: Tensor) -> Tensor:
        return self.restore(patches)


@dataclass(frozen=True)
class Code:
    """floats: of a picture, 0 for a code of whole numbers. gan: the share of the steps after which the GAN begins, 1 for none."""

    name: str
    floats: int
    bits: float
    flat: LoadedFlat
    gan: float = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for pictures and runs")
    parser.add_argument("--steps", type=int, default=240, help="of each decoder, 16 pictures each")
    parser.add_argument("--pictures", type=int, default=500, help="of the world; half as many of photographs")
    parser.add_argument("--held", type=int, default=200)
    parser.add_argument("--size", default="n", help="of the decoders")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheet", type=Path, help="and the pictures here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    encoder = load_dino(demo.DINO)
    encoder.model.requires_grad_(False)
    train, held, shown = pictures(options.folder, encoder, count=options.pictures, held=options.held)
    rows, sheet = [], [torch.cat(list(squares(shown, SIDE)), dim=2)]
    for code in codes(load_flat(demo.FLAT), train):
        decoder = trained(code, train, encoder, options)
        score = pixel_score(code.flat, decoder, held, device=CPU)
        gan = code.gan < 1
        rows.append({**score.values(), "name": code.name, "floats": code.floats, "bits": code.bits, "gan": gan})
        sheet.append(drawn(code, decoder, shown))
        publish({"about": about(CPU), "steps": options.steps, "size": options.size, "figures": rows}, options.json)
        if options.sheet is not None:
            save_picture(Picture(torch.cat(sheet, dim=1)[None]), options.sheet)


def pictures(folder: Path, encoder: DinoEncoder, *, count: int, held: int) -> tuple[EncodedPatches, ...]:
    """To train on, to judge by, and to show; what is there already stays."""
    photos, cat = Pictures(seed=0, worlds=0), held_out()[..., :288, :288]
    squares = torch.cat([cat, cat[..., 40:184, 60:204].repeat_interleave(2, 2).repeat_interleave(2, 3)])
    torch.manual_seed(0)
    for name, first, number, others in (
        ("train", 0, count, photos.crops(count // 2, side=SIDE, zoom=(0.7, 2.5))),
        ("held", 10**6, held, ()),
        ("shown", 10**6, SHOWN, squares),
    ):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for at in range(first, first + number):
            draw(place / f"{at:07d}.png", world.scene(np.random.default_rng(at)))
        for at, pixels in enumerate(others):
            path = place / f"photo_{at:04d}.png"
            if not path.exists():
                Image.fromarray((pixels * 255).round().byte().movedim(0, 2).numpy()).save(path)
    return tuple(opened(folder / name, encoder) for name in ("train", "held", "shown"))


def opened(folder: Path, encoder: DinoEncoder) -> EncodedPatches:
    encode = settings_for(load_flat(demo.FLAT).config, encoder.spec)
    return EncodedPatches([folder], encoder, layers=encode.layers, side=encode.side)


def codes(flat: LoadedFlat, train: EncodedPatches) -> list[Code]:
    """All that are compared, fitted to the training pictures."""

    def code(name: str, floats: int, bits: float, restore: Callable[[Tensor], Tensor]) -> Code:
        return Code(name, floats, bits, LoadedFlat(Restoring(flat.config, restore), name))  # type: ignore[arg-type]

    config, patches = flat.config, torch.cat([part[:, 0] for _, part in train.whole(range(len(train)))])
    whole, grid = config.width * config.grid[0] * config.grid[1], (config.grid[0], config.grid[1])
    halves, quarters = ((grid[0] // pool, grid[1] // pool) for pool in (2, 4))
    others = (
        of_patches(patches, 2, halves, config.floats // math.prod(halves)),
        of_patches(patches, 4, quarters, config.floats // math.prod(quarters)),
        of_words(patches, 1, grid, int(config.bits // math.prod(grid))),
        of_pictures(patches, config.floats),
    )
    return [
        code("DINO's patches", whole, HALF * whole, lambda x: x),
        Code("FlatDINO", config.floats, config.bits, flat),
        *(code(each.name, each.floats, each.bits, each.restore) for each in others),
        Code("FlatDINO, with the GAN", config.floats, config.bits, flat, gan=0.5),
    ]


def trained(code: Code, train: EncodedPatches, encoder: DinoEncoder, options: Any) -> PixelDecoder:
    """Its decoder, with all that the others have too."""
    folder, maps = options.folder / code.name.replace(" ", "_"), DinoMaps(encoder)
    told = {"steps": options.steps, "batch": 16, "learning_rate": RATE, "warmup": options.steps // 10, "ema": 0.99}
    every = {"save_every": 50, "validate_every": 0, "log_every": 10, "keep": 1}
    train_pixels(
        code.flat,
        train,
        size=options.size,
        patch=PATCH,
        maps=maps,
        seen=maps,
        gan_from=code.gan,
        settings=OptimisationSettings(**told),
        output=OutputSettings(folder=str(folder), tensorboard=False, **every),
        device=CPU,
    )
    return load_pixels(folder / FILE, flat=code.flat.fingerprint)


@torch.no_grad()
def drawn(code: Code, decoder: PixelDecoder, shown: EncodedPatches) -> Tensor:
    """What is drawn of the pictures, side by side: [3, H, W]."""
    patches = torch.stack([each[0] for each in shown.batch(range(len(shown))) if each is not None])
    return torch.cat(list(decoder(code.flat.module.decode(code.flat.module.encode(patches))).clamp(0, 1)), dim=2)


def squares(data: EncodedPatches, side: int) -> Tensor:
    """The pictures in the decoder's size, as decoders are judged by them: [n, 3, side, side]."""
    crops = [crop for crop in data.crops(range(len(data))) if crop is not None]
    return torch.cat([resize(crop[None], height=side, width=side) for crop in crops])


if __name__ == "__main__":
    main()
