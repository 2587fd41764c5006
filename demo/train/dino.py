"""The patch encoder: a stand-in for DINO, of DINOv2's architecture at width 128.

DINO learns from 142 million pictures what a patch belongs to. This one is taught it, with labels, for the shapes of the
world only: for every patch of a source, which kind of object it is part of and how far from that object's centre it
lies; for the CLS token, which kinds there are. On photographs, where there are no labels, it predicts what its patches
look like, coarsely. All are read off the outputs of the last three blocks.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...dino.backbone import build_model
from ...dino.encode import normalise
from ...dino.specs import SPECS
from .. import DINO
from . import world
from .muon import optimizers
from .pictures import Pictures
from .speed import autocast
from .task import log, train_for, write

SPEC = SPECS["dinov2-demo"]
PATCH, SIDE = SPEC.patch, SPEC.train_side
GRID = SIDE // PATCH
BLOCKS = (2, 3, 4)  # whose outputs are taught, counted from 1
SOURCES, COUNT = 1500, 24  # pictures of the world, and how many are in a batch
KINDS = world.GROUND + 1
WEIGHT = torch.tensor([1.0] * world.GROUND + [0.1])  # of the kinds: most patches are ground, and easy
LOOK = 4  # a patch's looks are this many cells per side


Shown = Callable[[world.Scene, int], np.ndarray]


class Student(nn.Module):
    """The encoder and its heads; only the encoder is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_model(SPEC)
        widths = (KINDS, 1, 3 * LOOK**2, KINDS)
        self.heads = nn.ModuleList(nn.ModuleList(nn.Linear(128, width) for width in widths) for _ in BLOCKS)

    def forward(self, pixels: Tensor) -> list[list[Tensor]]:
        """Of each of BLOCKS, for patches: kinds [B, N, KINDS], distances [B, N, 1] and looks [B, N, 3 * LOOK^2]; for the
        picture: what is present [B, KINDS]."""
        states = self.encoder(normalise(pixels), output_hidden_states=True).hidden_states
        found = []
        for block, heads in zip(BLOCKS, self.heads, strict=True):
            tokens = F.layer_norm(states[block].float(), (128,))
            *of_patches, of_picture = heads
            found.append([*(head(tokens[:, 1:]) for head in of_patches), of_picture(tokens[:, 0])])
        return found


class Sources:
    """Random views of `count` sources of the world with two labels of every patch, the kind of its object and the
    distance to that object's centre in radii, and of photographs without."""

    def __init__(self, *, seed: int, count: int, shown: Shown = lambda scene, index: scene.source()) -> None:
        """shown: the source of a scene by its number."""
        rng = np.random.default_rng((seed, 1))
        self.planes = []  # each [5, side, side]: picture, labels, distances
        for index in range(count):
            scene = world.scene(rng)
            labels = scene.labels()[:: world.FACTOR, :: world.FACTOR]
            planes = np.dstack([shown(scene, index), labels, _distances(scene)])
            self.planes.append(torch.from_numpy(planes).permute(2, 0, 1).float())
        self.photos = Pictures(seed=seed, worlds=0)

    def batch(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Degraded pictures [B, 3, SIDE, SIDE], kinds and distances [B, GRID * GRID]; kind -100: there is no label."""
        made = []
        for _ in range(count - count // 6):
            picture, kinds, distances = self._view(self.planes[torch.randint(len(self.planes), ()).item()])
            made.append((degraded(picture), kinds, distances))
        for photo in self.photos.crops(count // 6, side=SIDE, zoom=(0.7, 2.5)):
            made.append((degraded(photo), torch.full((GRID * GRID,), -100), torch.zeros(GRID * GRID)))
        views, kinds, distances = (torch.stack(parts) for parts in zip(*made, strict=True))
        return views, kinds, distances

    def _view(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A source, perhaps mirrored, with other colours, sometimes zoomed in."""
        side = whole = planes.shape[-1]
        if torch.rand(()) < 0.4:
            side = int(whole * (0.6 + 0.4 * torch.rand(())))
        top, left = torch.randint(whole - side + 1, (2,)).tolist()
        planes = planes[:, top : top + side, left : left + side]
        if torch.rand(()) < 0.5:
            planes = planes.flip(-1)
        _, kinds = most_frequent(planes[3].long(), GRID)
        return planes[torch.randperm(3)], kinds.flatten(), F.adaptive_avg_pool2d(planes[4:], GRID).flatten()


def most_frequent(labels: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Of every cell of labels [side, side] the share of its most frequent kind and which that is, both [cells, cells]."""
    shares = F.one_hot(labels, KINDS).movedim(-1, 0).float()
    return F.adaptive_avg_pool2d(shares, cells).max(0)


def _distances(scene: world.Scene) -> np.ndarray:
    """From every source pixel of an object to the object's centre, in radii; 0 on the ground."""
    side = world.SIDE // world.FACTOR
    y, x = (np.mgrid[0:side, 0:side] + 0.5) * world.FACTOR
    found = np.zeros((side, side), np.float32)
    for thing in scene.things:
        inside = scene.mask(thing)[:: world.FACTOR, :: world.FACTOR] > 0.5
        found[inside] = (np.hypot(y - thing.top, x - thing.left) / thing.radius)[inside]
    return found


def train(*, minutes: float, seed: int, folder: Path | None = None) -> None:
    """Trains for `minutes` (after drawing the sources) and writes DINO now and then and at the end."""
    torch.manual_seed(seed)
    data, student = Sources(seed=seed, count=SOURCES), Student().train()
    place(student.encoder)
    learn(student, data, DINO, minutes=minutes, seed=seed, folder=folder)


def learn(
    student: Student, data: Sources, path: Path, *, minutes: float, seed: int, folder: Path | None = None
) -> None:
    """Trains on sources, and writes the encoder's file ``path``."""
    train_for(
        student,
        optimizers(student, lr=4e-3, keep=("encoder.embeddings",)),
        batch=lambda share: data.batch(COUNT),
        loss=lambda batch: _loss(student, *batch),
        write=lambda steps, loss: export(student, path, steps=steps, seed=seed, loss=loss),
        minutes=minutes,
        seed=seed,
        folder=folder,
    )


@torch.no_grad()
def place(encoder: nn.Module) -> None:
    """Starts the positions as sines and cosines over rows and columns: from noise it takes long until patches find their
    neighbours."""
    angles = torch.arange(GRID)[:, None] * 0.5 ** torch.arange(0, 4, 0.125)  # [GRID, 32]
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # [GRID, 64]
    rows, columns = waves[:, None].expand(-1, GRID, -1), waves[None].expand(GRID, -1, -1)
    encoder.embeddings.position_embeddings[0, 1:] = 0.5 * torch.cat([rows, columns], dim=-1).flatten(0, 1)


def degraded(picture: Tensor) -> Tensor:
    """What an upscaler's input looks like, [3, SIDE, SIDE] of [3, h, w]: softer, noisier, with other colours."""
    factor = 1 + 2 * torch.rand(()).item() ** 2
    side = max(24, int(min(picture.shape[-1], SIDE) / factor))
    soft = F.interpolate(picture[None], (side, side), mode="bilinear", antialias=True)
    soft = F.interpolate(soft, (SIDE, SIDE), mode="bicubic")[0]
    colour = (1 + 0.1 * torch.randn(3, 1, 1)) * soft + 0.05 * torch.randn(3, 1, 1)
    return (colour + 0.04 * torch.rand(()) * torch.randn_like(colour)).clamp(0, 1)


def export(student: Student, path: Path, *, steps: int, seed: int, loss: float) -> None:
    write(path, dict(student.encoder.state_dict()), steps=steps, seed=seed)
    log.info("dino: %d steps, loss %.3f, %s", steps, loss, report(student))


@torch.no_grad()
def report(student: Student) -> str:
    """Patches of held-out sources that are named rightly."""
    rng = np.random.default_rng(10**6)
    right, counted = 0, 0
    for _ in range(20):
        scene = world.scene(rng)
        pixels = F.interpolate(torch.from_numpy(scene.source()).permute(2, 0, 1)[None], (SIDE, SIDE), mode="bicubic")
        found = student(pixels.clamp(0, 1))[-1][0].argmax(-1)
        most, labels = (each.flatten() for each in most_frequent(torch.from_numpy(scene.labels()), GRID))
        inside = (most > 0.9) & (labels != world.GROUND)
        right, counted = right + int((found[0] == labels)[inside].sum()), counted + int(inside.sum())
    return f"{right / counted:.1%} of held-out patches"


def _loss(student: Student, pixels: Tensor, labels: Tensor, distances: Tensor) -> Tensor:
    looks = F.adaptive_avg_pool2d(pixels, GRID * LOOK) - 0.5
    looks = rearrange(looks, "b c (h p) (w q) -> b (h w) (c p q)", p=LOOK, q=LOOK)
    present = F.one_hot(labels.clamp(min=0), KINDS).amax(1).float()
    known = labels[:, 0] >= 0
    with autocast():
        found = student(pixels)
    loss = looks.new_zeros(())
    inside = (labels >= 0) & (labels != world.GROUND)
    for kinds, far, seen, named in found:
        loss = loss + F.cross_entropy(kinds.flatten(0, 1).float(), labels.flatten(), weight=WEIGHT)
        loss = loss + 5 * F.mse_loss(far[..., 0].float()[inside], distances[inside])
        loss = loss + F.mse_loss(seen.float(), looks)
        loss = loss + 0.3 * F.binary_cross_entropy_with_logits(named.float()[known], present[known])
    return loss
