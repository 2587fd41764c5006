"""A FlatDINO for the demo's DINO, small enough to be shipped, so that commands and nodes have one to run on.

It turns the 12 x 12 patches of the block that the demo's adapter takes into 16 tokens of 16 numbers. With one block of
24 channels on either side it keeps what is where, coarsely.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...dino.compress.checkpoint import save_flat
from ...dino.compress.model import LEARNED, FlatDino, new_flat
from ...dino.compress.statistics import Sums
from ...dino.encode import DinoEncoder, EncodeSettings
from ...dino.load import load_dino
from ...training.flatdino.losses import cosines, restored
from ...training.flatdino.measure import Tally
from ...training.flatdino.name import parse
from .. import DINO, FLAT
from . import world
from .dino import GRID, SIDE, Sources
from .muon import optimizers
from .task import log, train_for

NAME = "fast-16-pp-16-hl-nokl"
ENCODE = EncodeSettings()  # as adapters are made for
SOURCES, VIEWS, COUNT = 300, 2560, 32  # pictures of the world, how many views of them there are, and those of a batch


def train(*, minutes: float, seed: int, folder: Path | None = None) -> None:
    """Trains for `minutes` (after drawing and encoding the views) and writes FLAT now and then and at the end."""
    torch.manual_seed(seed)
    data, encoder = Sources(seed=seed, count=SOURCES), load_dino(DINO)
    spec, shown = encoder.spec, VIEWS // COUNT
    seen = torch.cat(
        [patches_of(encoder, data.batch(COUNT)[0]) for _ in range(shown)]
    )  # once, as DINO takes most of the time
    model = new_flat(
        parse(NAME).config(dino=spec.name, width=spec.width, how=ENCODE.how(spec), grid=(GRID, GRID)), seed=seed
    ).train()
    kept = tuple(name for name, _ in model.named_parameters() if name.rpartition(".")[2] in LEARNED)

    def batch(share: float) -> Tensor:
        return seen[torch.randint(len(seen), (COUNT,))]

    def loss(patches: Tensor) -> Tensor:
        found = model.decode(model.encode(patches))
        return restored(found[:, None], patches[:, None]).mean() + 0.1 * (1 - cosines(found, patches)).mean()

    def write(steps: int, loss: float) -> None:
        export(model, seen[:256], steps=steps, seed=seed)
        log.info("flat: %d steps, loss %.4f, %s", steps, loss, report(model, encoder))

    train_for(
        model,
        optimizers(model, lr=1e-2, keep=kept),
        batch=batch,
        loss=loss,
        write=write,
        minutes=minutes,
        seed=seed,
        folder=folder,
        save_every=250,
    )


@torch.no_grad()
def patches_of(encoder: DinoEncoder, pixels: Tensor) -> Tensor:
    """[B, 3, SIDE, SIDE] -> [B, GRID, GRID, D]."""
    return encoder.features(pixels, settings=ENCODE)[0].float()


@torch.no_grad()
def export(model: FlatDino, seen: Tensor, *, steps: int, seed: int) -> None:
    """In half precision. seen: patches that the statistics of latents are of."""
    sums = Sums()
    sums.add(model.encode(seen))
    half = new_flat(model.config).half()
    half.load_state_dict(model.state_dict())
    about = {"dinotile": "demo", "trained_by": "demo/train.py", "name": NAME, "steps": steps, "seed": seed}
    FLAT.parent.mkdir(parents=True, exist_ok=True)
    save_flat(half, FLAT, statistics=sums.result(), provenance=about)


@torch.no_grad()
def report(model: FlatDino, encoder: DinoEncoder) -> str:
    """How held-out sources are restored."""
    tally, rng = Tally(), np.random.default_rng(10**6)
    for _ in range(50):
        pixels = torch.from_numpy(world.scene(rng).source()).permute(2, 0, 1)[None]
        true = patches_of(encoder, F.interpolate(pixels, (SIDE, SIDE), mode="bicubic").clamp(0, 1))
        tally.add(model.decode(model.encode(true)), true)
    return ", ".join(f"{name} {value:.3f}" for name, value in tally.numbers().items())
