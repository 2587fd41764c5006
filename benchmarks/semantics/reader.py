"""The reader: a small convolutional network that names the texture that belongs to every place of a flat source, from all that
it is shown of it.

It says how much there is to know. Shown one tile, it can go by a piece of an outline; shown the whole picture, by the shape. It
learns on windows of the tiles' sides and on whole pictures alike, and its answers are no pictures: what it knows is what a
perfect FLUX of that view could draw. `python -m benchmarks.semantics.reader` prints it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from dinotile.demo.train import world
from dinotile.demo.train.dino import KINDS
from dinotile.demo.train.task import log, train_for, write
from dinotile.files.weights import read_weights
from dinotile.flux_patch.families import plan_tiles

from ..figures import about, interval, publish
from .classifier import CELL, cell_labels, naming
from .measure import Scores
from .selftaught import NOBODY, drawn

FILE = Path(__file__).with_name("reader.safetensors")
SIDES = (64, 96, 128, world.SIDE)  # px of what is read, as of the enlarged picture
UNSEEN = (32, 48)  # which it did not learn on
PIXELS = 8 * world.SIDE**2  # of a batch, as of enlarged pictures
WIDTH, DILATIONS = 48, (1, 2, 4, 8, 16, 8, 4, 2, 1)
HELD_OUT = 2 * 10**6  # seed of the first scene that is asked of, as in the table


class Reader(nn.Module):
    """Pixels [B, 3, h, w] of a source in 0..1 -> logits [B, KINDS, h / 2, w / 2]: one answer for CELL px of the enlarged one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDTH, 4, stride=2, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(4, WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation)
            )
            for dilation in DILATIONS
        )
        self.last = nn.Conv2d(WIDTH, KINDS, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.first((pixels - 0.5) * 4)
        for layer in self.layers:
            found = found + layer(found)
        return self.last(found)


def train(*, minutes: float, seed: int, path: Path = FILE, sides: Sequence[int] = SIDES) -> None:
    """Trains for ``minutes`` and writes the file."""
    torch.manual_seed(seed)
    reader = Reader().train()

    def export(steps: int, loss: float) -> None:
        write(path, dict(reader.state_dict()), steps=steps, seed=seed, trained_by="benchmarks/semantics/train.py")
        log.info("reader: %d steps, loss %.3f, %s", steps, loss, {side: read(reader, side)[0] for side in sides})

    tools = [torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.02)]
    settings = {"minutes": minutes, "seed": seed, "ema": 0.99, "save_every": 10**9}
    train_for(reader, tools, batch=lambda share: windows(seed, sides), loss=naming(reader), write=export, **settings)


def windows(seed: int, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Windows of new scenes, all of one of ``sides``, and the texture of every cell."""
    rng = np.random.default_rng((seed, 11, int(torch.randint(2**62, ()))))
    side = sides[rng.integers(len(sides))] // world.FACTOR
    count = PIXELS // (side * world.FACTOR) ** 2
    found = []
    while len(found) < count:
        scene = world.scene(rng)
        planes = drawn(scene, [thing.texture for thing in scene.things])
        for _ in range(min(count, (planes.shape[-1] // side) ** 2)):
            top, left = 2 * rng.integers((planes.shape[-1] - side) // 2 + 1, size=2)
            found.append(planes[:, top : top + side, left : left + side])
    planes = torch.stack(found[:count])
    kinds = planes[:, 3, ::2, ::2].long()
    return planes[:, :3], torch.where(kinds == NOBODY, world.GROUND, kinds)


@torch.no_grad()
def right(reader: Reader, scene: world.Scene, side: int) -> float:
    """The share of the objects' area in tiles of ``side`` px, each read alone, whose texture is named rightly."""
    plan = plan_tiles(world.SIDE, world.SIDE, tile=side, overlap=side // 4, fit="exact")
    pixels = torch.from_numpy(scene.source()).permute(2, 0, 1)[None]
    share, own = cell_labels(scene)
    area = share * ((own != world.GROUND) & (share > 0.5))
    found = counted = 0.0
    for box in plan.boxes:
        small, cells = (
            (..., slice(box.top // size, box.bottom // size), slice(box.left // size, box.right // size))
            for size in (world.FACTOR, CELL)
        )
        named = reader(pixels[small])[0].argmax(0)
        found += float((area[cells] * (named == own[cells])).sum())
        counted += float(area[cells].sum())
    return found / counted


def read(reader: Reader, side: int, *, pictures: int = 20) -> tuple[float, float]:
    """``right`` of held-out pictures: mean and half the width of its 95 % interval over pictures."""
    scenes = (world.scene(np.random.default_rng(HELD_OUT + index)) for index in range(pictures))
    mean, half = interval(torch.tensor([right(reader, scene, side) for scene in scenes], dtype=torch.float64))
    return round(mean, 5), round(half, 5)


def scores(scene: world.Scene, side: int) -> Scores:
    """What the table counts of the reader, who draws nothing."""
    return replace(Scores(*[math.nan] * len(fields(Scores))), accuracy=right(load(), scene, side))


def load(path: Path = FILE) -> Reader:
    """The trained reader."""
    reader = Reader().eval()
    reader.load_state_dict(read_weights(path)[0])
    return reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument(
        "--small", type=float, help="train one on tiles of 32 to 64 px for so many minutes, and ask that"
    )
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    sides, path = (*UNSEEN, *SIDES) if options.small is None else (*UNSEEN, SIDES[0]), FILE
    with TemporaryDirectory() as folder:
        if options.small is not None:
            path = Path(folder, "small.safetensors")
            train(minutes=options.small, seed=0, path=path, sides=sides)
        reader = load(path)
    found = {f"tiles of {side} px": read(reader, side, pictures=options.pictures) for side in sides}
    told = {**about(torch.device("cpu")), "pictures": options.pictures, "first": HELD_OUT}
    publish({"about": told, "right texture": found}, options.output)


if __name__ == "__main__":
    main()
