"""What a reader can tell of the textures before anything is drawn: `python -m benchmarks.semantics.readers`.

Two networks of the encoder's architecture are taught with labels to name what belongs to every patch of a flat source. One sees
single tiles, as FLUX does in a tiled run without help; the other sees whole pictures. What the first can read is what a tile
knows by itself: the outline's piece in it. The judge, which names drawn textures, reads the truth and the enlarged source. Of the
encoders that guide FLUX it prints what a linear map reads off the patches of each block.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinotile import demo
from dinotile.demo.train import world
from dinotile.demo.train.dino import GRID, KINDS, SIDE, SPEC, WEIGHT, place
from dinotile.demo.train.muon import optimizers
from dinotile.demo.train.speed import autocast
from dinotile.demo.train.task import log, train_for
from dinotile.dino.backbone import build_model
from dinotile.dino.encode import normalise
from dinotile.files.pixels import resize
from dinotile.tiling.plan import Box

from ..figures import about, interval
from . import classifier
from .measure import cell_labels
from .selftaught import load, readout
from .table import HELD_OUT, PLAN, RESULT, as_pixels, models

SCENES, COUNT = 900, 40  # of the training, and of a batch
MINUTES = 8.0
WHOLE = Box(0, 0, world.SIDE, world.SIDE)


class Reader(nn.Module):
    """Names of every patch of a window [B, 3, SIDE, SIDE] what it belongs to [B, GRID * GRID, KINDS]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_model(SPEC)
        self.head = nn.Linear(128, KINDS)
        place(self.encoder)

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.encoder(normalise(pixels), output_hidden_states=True).hidden_states
        return self.head(F.layer_norm(states[-1][:, 1:].float(), (128,)))


def train(*, tiles: bool, minutes: float, seed: int) -> Reader:
    """A reader of single tiles or of whole pictures, taught for ``minutes`` after the scenes are drawn."""
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 11))
    scenes = [_planes(world.scene(rng)) for _ in range(SCENES)]
    reader = Reader().train()

    def batch(share: float) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(scenes), (COUNT,)).tolist()
        views = [_window(scenes[index], _random_box() if tiles else WHOLE) for index in chosen]
        return torch.stack([picture[torch.randperm(3)] for picture, _ in views]), torch.stack(
            [kind for _, kind in views]
        )

    def loss(views: tuple[Tensor, Tensor]) -> Tensor:
        with autocast():
            found = reader(views[0])
        return F.cross_entropy(found.flatten(0, 1).float(), views[1].flatten(), weight=WEIGHT)

    train_for(
        reader,
        optimizers(reader, lr=4e-3, keep=("encoder.embeddings",)),
        batch=batch,
        loss=loss,
        write=lambda steps, loss: log.info(
            "reader of %s: %d steps, loss %.3f", "tiles" if tiles else "all", steps, loss
        ),
        minutes=minutes,
        seed=seed,
        save_every=10**9,
    )
    return reader.eval()


@torch.no_grad()
def right(name: Callable[[Tensor], Tensor], *, tiles: bool, scenes: int) -> list[float]:
    """Of each held-out scene the share of the objects' patches that `name` names rightly, as they are seen in the tiles of the
    table's plan, or in the whole."""
    shares = []
    for index in range(scenes):
        planes = _planes(world.scene(np.random.default_rng(HELD_OUT + index)))
        hits = count = 0
        for box in PLAN.boxes if tiles else (WHOLE,):
            picture, kinds = _window(planes, box)
            inside = kinds != world.GROUND
            hits += int((name(picture[None])[0].argmax(-1) == kinds)[inside].sum())
            count += int(inside.sum())
        shares.append(hits / count)
    return shares


@torch.no_grad()
def judged(pixels: Callable[[world.Scene], Tensor], scenes: int) -> list[float]:
    """Of each held-out scene the share of the objects' cells that the judge names rightly in those pixels."""
    judge, shares = classifier.load(), []
    for index in range(scenes):
        scene = world.scene(np.random.default_rng(HELD_OUT + index))
        labels = cell_labels(scene)[1]
        inside = labels != world.GROUND
        shares.append(float((judge(pixels(scene))[0].argmax(0) == labels)[inside].float().mean()))
    return shares


def _planes(scene: world.Scene) -> Tensor:
    """The enlarged source and its labels [4, world.SIDE, world.SIDE]."""
    enlarged = resize(as_pixels(scene.source()), height=world.SIDE, width=world.SIDE)[0]
    return torch.cat([enlarged, torch.from_numpy(scene.labels())[None].float()])


def _window(planes: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """What a reader sees of the box [3, SIDE, SIDE], and the most frequent kind of every patch [GRID * GRID]."""
    part = planes[:, box.top : box.bottom, box.left : box.right]
    picture = F.interpolate(part[None, :3], (SIDE, SIDE), mode="bicubic", antialias=True)[0].clamp(0, 1)
    shares = F.one_hot(part[3].long(), KINDS).movedim(-1, 0).float()
    return picture, F.adaptive_avg_pool2d(shares, GRID).max(0).indices.flatten()


def _random_box() -> Box:
    tile = PLAN.boxes[0].height
    top, left = torch.randint(world.SIDE - tile + 1, (2,)).tolist()
    return Box(top, left, tile, tile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of each reader's training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=RESULT.with_name("semantics_readers.json"))
    options = parser.parse_args()
    found = {
        "judge, truth": judged(lambda scene: as_pixels(scene.true()), options.scenes),
        "judge, enlarged source": judged(lambda scene: _planes(scene)[None, :3], options.scenes),
    }
    for tiles in (True, False):
        reader = train(tiles=tiles, minutes=options.minutes, seed=options.seed)
        found[f"reader of {'single tiles' if tiles else 'whole pictures'}"] = right(
            reader, tiles=tiles, scenes=options.scenes
        )
    rows = {}
    for name, shares in found.items():
        mean, half = interval(torch.tensor(shares))
        rows[name] = [round(mean, 5), round(half, 5)]
        print(f"| {name} | {100 * mean:.0f} % \u00b1 {100 * half:.0f} |", flush=True)
    torch.manual_seed(options.seed)
    encoders = {"without labels": load(), "with labels": load(demo.DINO), "random": build_model(SPEC).eval()}
    readouts = {name: readout(encoder, scenes=options.scenes) for name, encoder in encoders.items()}
    for name, shares in readouts.items():
        line = ", ".join(f"block {block} {share:.1%}" for block, share in shares.items())
        print(f"linear readout, encoder {name}: {line}", flush=True)
    told = {**about(torch.device("cpu")), "scenes": options.scenes, "minutes": options.minutes, "models": models()}
    options.output.write_text(json.dumps({"about": told, "rows": rows, "readouts": readouts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
