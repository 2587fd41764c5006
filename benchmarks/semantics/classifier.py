"""The judge: a small convolutional network that names the texture at every place of a picture, from 65 px around it.

It never sees which shape a texture lies in: it learns on scenes whose shapes and textures are shuffled, in grey, and
nothing else in the benchmark is trained with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from dinotile.demo.train import world
from dinotile.demo.train.dino import KINDS, most_frequent
from dinotile.demo.train.speed import autocast
from dinotile.demo.train.task import log, train_for, write
from dinotile.files.weights import read_weights

CELL = 8  # px: one answer for each
JUDGE = Path(__file__).with_name("judge.safetensors")
SCENES = 500
VIEW, COUNT = 160, 16  # px of a picture that is learned from, and how many are in a batch


class TextureClassifier(nn.Module):
    """Pixels [B, 3, H, W] in 0..1 -> logits [B, KINDS, H / CELL, W / CELL]; the last kind is plain ground."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for outputs, stride, dilation in ((24, 1, 1), (32, 2, 1), (48, 2, 1), (64, 2, 1), (64, 1, 1), (64, 1, 2)):
            conv = nn.Conv2d(width, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
            width = outputs
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, KINDS, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers((pixels.mean(1, keepdim=True) - 0.5) * 4)


def train(*, minutes: float, seed: int, path: Path = JUDGE) -> None:
    """Trains for `minutes` (after drawing the scenes) and writes the file."""
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 3))
    pictures, labels = [], []
    for index in range(SCENES):
        scene = world.scene(rng, shuffled=True)
        plain = index % 8 == 0
        pictures.append(torch.from_numpy(scene.flat() if plain else scene.true()).permute(2, 0, 1))
        labels.append(torch.full((world.SIDE // CELL,) * 2, world.GROUND) if plain else cell_labels(scene)[1])
    model = TextureClassifier().train()

    def batch(share: float) -> tuple[Tensor, Tensor]:
        views, kinds = [], []
        for index in torch.randint(SCENES, (COUNT,)).tolist():
            top, left = (CELL * torch.randint((world.SIDE - VIEW) // CELL + 1, (2,))).tolist()
            views.append(_worn(pictures[index][:, top : top + VIEW, left : left + VIEW]))
            kinds.append(labels[index][top // CELL : (top + VIEW) // CELL, left // CELL : (left + VIEW) // CELL])
        return torch.stack(views), torch.stack(kinds)

    def export(steps: int, loss: float) -> None:
        write(path, model.state_dict(), steps=steps, seed=seed, trained_by="benchmarks/semantics/train.py")
        log.info("classifier: %d steps, loss %.3f, %s", steps, loss, report(model))

    tools = [torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)]
    settings = {"minutes": minutes, "seed": seed, "ema": 0.99, "save_every": 10**9}
    train_for(model, tools, batch=batch, loss=naming(model), write=export, **settings)


def naming(model: nn.Module) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
    """The loss of pixels [B, 3, H, W], and of the kinds [B, h, w] that a model should name in them."""

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, kinds = batch
        with autocast():
            found = model(pixels)
        return cross_entropy(found.float(), kinds)

    return loss


def load(path: Path = JUDGE) -> TextureClassifier:
    """The trained judge."""
    model = TextureClassifier().eval()
    model.load_state_dict(read_weights(path)[0])  # half precision on the disk
    return model


def cell_labels(scene: world.Scene) -> tuple[Tensor, Tensor]:
    """Of every cell of CELL px the share of its most frequent texture and which that is, [side / CELL, side / CELL]."""
    return most_frequent(torch.from_numpy(scene.labels()), world.SIDE // CELL)


@torch.no_grad()
def report(model: nn.Module) -> str:
    """Cells of held-out shuffled scenes inside objects that are named rightly, sharp and worn."""
    rng = np.random.default_rng(10**6)
    right, counted = [0, 0], 0
    for _ in range(20):
        scene = world.scene(rng, shuffled=True)
        picture = torch.from_numpy(scene.true()).permute(2, 0, 1)
        share, kinds = cell_labels(scene)
        inside = (share > 0.5) & (kinds != world.GROUND)
        counted += int(inside.sum())
        for index, view in enumerate((picture, _worn(picture))):
            right[index] += int((model(view[None])[0].argmax(0) == kinds)[inside].sum())
    return f"{right[0] / counted:.1%} of held-out object cells, worn {right[1] / counted:.1%}"


def _worn(view: Tensor) -> Tensor:
    """As a generated picture may come: a little softer, with less or more contrast, some noise."""
    if torch.rand(()) < 0.6:
        factor = 1 + 1.2 * torch.rand(()).item()
        size = [int(side / factor) for side in view.shape[-2:]]
        soft = interpolate(view[None], size, mode="bilinear", antialias=True)
        view = interpolate(soft, view.shape[-2:], mode="bicubic")[0]
    middle = view.mean((1, 2), keepdim=True)
    view = middle + (view - middle) * (0.4 + 0.9 * torch.rand(()))
    return (view + 0.06 * torch.rand(()) * torch.randn(1, *view.shape[1:])).clamp(0, 1)
