"""An encoder that is never told what anything is: it learns that a patch belongs to the same object in two looks at it.

The shipped stand-in for DINO is taught with labels which kind of object a patch is part of. This one has the same architecture
and no labels of kinds. It sees every object twice: at another place, in other company, in another size, turn, colour and light,
degraded. Each patch has to find its object among all objects of the batch (InfoNCE: van den Oord et al. 2018, equation 4). It is
told which patches are of one object, as a tracker would tell it of a video; two objects of one kind count as different ones.

`python -m benchmarks.semantics.selftaught` prints what a linear map reads off the patches of this encoder, of the one with
labels and of random weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinotile import demo
from dinotile.demo.train import world
from dinotile.demo.train.dino import GRID, PATCH, SIDE, SPEC, degraded, most_frequent, place
from dinotile.demo.train.muon import optimizers
from dinotile.demo.train.speed import autocast
from dinotile.demo.train.task import log, train_for, write
from dinotile.dino.backbone import build_model
from dinotile.dino.encode import normalise
from dinotile.files.weights import read_weights

from ..figures import about, publish
from . import forms

FILE, ADAPTER = (Path(__file__).with_name(f"selftaught{name}.safetensors") for name in ("", "_adapter"))
FIRST, COUNTS = 0.8, {112: 28, 168: 16}  # share of the run with small views; scenes of a batch by the views' side
SAME = 0.25  # share of the run in which both views are now and then of one look, seldomer and seldomer
BLOCKS = (3, 4)  # whose outputs learn, counted from 1
ANCHORS = 4  # patches of an object that look for it
HEAT = 0.1  # the temperature of InfoNCE
READ = 40  # scenes that a linear readout learns from, and as many that it is asked of
NOBODY = -1  # the number of what is no object


class Learner(nn.Module):
    """The encoder, and for each of BLOCKS a head into the space where objects are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_model(SPEC)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 64)) for _ in BLOCKS
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Of each of BLOCKS the patches [B, N, 64], of length 1."""
        states = self.encoder(normalise(pixels), output_hidden_states=True).hidden_states
        found = (head(states[block][:, 1:].float()) for block, head in zip(BLOCKS, self.heads, strict=True))
        return [F.normalize(patches, dim=-1) for patches in found]


class Pairs:
    """Two sets of scenes that show the same objects in other company, drawn once, so that nothing can be learned by heart."""

    def __init__(self, *, seed: int, draw: Draw = world.scene) -> None:
        self.seed, self.draw = seed, draw

    def batch(self, side: int, *, same: float = 0.0) -> tuple[Tensor, Tensor]:
        """COUNTS[side] scenes and as many that show the same objects again: degraded pictures [2, count, 3, side, side] and the
        numbers of the objects that their patches belong to [2, count, N]; NOBODY where none has at least half of a patch.
        same: the share of the second scenes that are the first ones in other colours."""
        rng = np.random.default_rng((self.seed, 9, int(torch.randint(2**62, ()))))
        first = [self.draw(rng) for _ in range(COUNTS[side])]
        firsts = numbered(first)
        kept = [rng.random() < same for _ in first]
        moved = again([scene for scene, keep in zip(firsts, kept, strict=True) if not keep], rng, self.draw)
        seconds = [scene if keep else moved.pop() for scene, keep in zip(firsts, kept, strict=True)]
        made = [[_view(drawn(*scene), side // PATCH) for scene in scenes] for scenes in (firsts, seconds)]
        pixels = torch.stack([torch.stack([degraded(picture) for picture, _ in views]) for views in made])
        if side != SIDE:
            pixels = F.interpolate(pixels.flatten(0, 1), (side, side), mode="area").unflatten(0, (2, -1))
        return pixels, torch.stack([torch.stack([owners for _, owners in views]) for views in made])


Draw = Callable[[np.random.Generator], world.Scene]
Numbered = tuple[world.Scene, list[int]]  # a scene and the numbers of its objects


def numbered(scenes: Sequence[world.Scene]) -> list[Numbered]:
    """Scenes whose objects are counted through, from 0."""
    found, first = [], 0
    for scene in scenes:
        found.append((scene, list(range(first, first + len(scene.things)))))
        first += len(scene.things)
    return found


def again(scenes: Sequence[Numbered], rng: np.random.Generator, draw: Draw = world.scene) -> list[Numbered]:
    """As many new scenes with the same objects dealt out anew, at other places, in other sizes, turns, colours and light."""
    objects = [
        (thing, number) for scene, numbers in scenes for thing, number in zip(scene.things, numbers, strict=True)
    ]
    order, found = list(rng.permutation(len(objects))), []
    for _, numbers in scenes:
        dealt = [objects[order.pop()] for _ in numbers]
        other = draw(rng)
        while len(other.things) < len(dealt):
            other = draw(rng)
        places = zip(other.things, dealt, strict=False)  # there may be more places
        things = tuple(
            replace(place, shape=thing.shape, texture=thing.texture, seed=thing.seed) for place, (thing, _) in places
        )
        found.append((replace(other, things=things), [number for _, number in dealt]))
    return found


def drawn(scene: world.Scene, numbers: Sequence[int]) -> Tensor:
    """The flat source, drawn at its own size, and the number of every pixel's object [4, side, side]."""
    side = world.SIDE // world.FACTOR
    y, x = (np.mgrid[0:side, 0:side] + 0.5) * world.FACTOR
    picture = np.full((side, side, 3), scene.ground, np.float32)
    owners = np.full((side, side), NOBODY, np.float32)
    for number, thing in zip(numbers, scene.things, strict=True):
        own = world.turned((y - thing.top) / thing.radius, (x - thing.left) / thing.radius, thing.angle)
        inside = scene.outline(thing, *own)
        mask = np.clip(0.5 - inside * thing.radius / world.FACTOR, 0, 1)[..., None]
        picture = picture * (1 - mask) + mask * np.asarray(thing.colour, np.float32)
        owners[mask[..., 0] > 0.5] = number
    angle, strength = scene.light
    slope = 1 + strength * (np.cos(angle) * (y / world.SIDE - 0.5) + np.sin(angle) * (x / world.SIDE - 0.5))
    picture = np.clip(picture * slope[..., None], 0, 1)
    return torch.from_numpy(np.dstack([picture, owners])).permute(2, 0, 1).float()


def _view(planes: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """A picture, perhaps mirrored or zoomed in, with its colours exchanged, and its patches' objects [grid * grid]."""
    side = whole = planes.shape[-1]
    if torch.rand(()) < 0.3:
        side = int(whole * (0.7 + 0.3 * torch.rand(())))
    top, left = torch.randint(whole - side + 1, (2,)).tolist()
    planes = planes[:, top : top + side, left : left + side]
    if torch.rand(()) < 0.5:
        planes = planes.flip(-1)
    kinds, places = planes[3].long().unique(return_inverse=True)
    most, owners = F.adaptive_avg_pool2d(F.one_hot(places).movedim(-1, 0).float(), grid).max(0)
    owners = torch.where(most < 0.5, NOBODY, kinds[owners])
    return planes[torch.randperm(3)], owners.flatten()


def contrast(patches: Tensor, numbers: Tensor) -> Tensor:
    """InfoNCE between two looks: patches [2, B, N, C] of length 1, numbers [2, B, N] of their objects. Of every object that
    both looks show, ANCHORS patches of one look are to find the mean of its patches in the other among those of all
    objects."""
    owners, flat = numbers.flatten(1), patches.flatten(1, 2)  # [2, B * N], [2, B * N, C]
    shared = [owner for owner in owners[0].unique().tolist() if owner != NOBODY and (owners[1] == owner).any()]
    loss = patches.new_zeros(())
    for one, other in ((0, 1), (1, 0)):
        keys = torch.stack([flat[other][owners[other] == owner].mean(0) for owner in shared])
        keys = F.normalize(keys, dim=-1)  # [objects, C]
        rows, wanted = [], []
        for number, owner in enumerate(shared):
            mine = flat[one][owners[one] == owner]
            rows.append(mine[torch.randperm(len(mine))[:ANCHORS]])
            wanted += [number] * len(rows[-1])
        scores = torch.cat(rows) @ keys.T / HEAT  # [anchors, objects]
        loss = loss + 0.5 * F.cross_entropy(scores, torch.tensor(wanted))
    return loss


def train(*, minutes: float, seed: int, path: Path = FILE, draw: Draw = world.scene, begin: Path | None = None) -> None:
    """Trains for ``minutes`` (after drawing the looks) and writes the encoder, with a linear readout in the log. begin: an
    encoder to go on from."""
    torch.manual_seed(seed)
    data, learner = Pairs(seed=seed, draw=draw), Learner().train()
    place(learner.encoder)
    if begin is not None:
        learner.encoder.load_state_dict(load(begin).state_dict())

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        pixels, numbers = batch
        with autocast():
            found = learner(pixels.flatten(0, 1))
        return sum((contrast(patches.unflatten(0, (2, -1)).float(), numbers) for patches in found), torch.zeros(()))

    def export(steps: int, loss: float) -> None:
        write(
            path, dict(learner.encoder.state_dict()), steps=steps, seed=seed, trained_by="benchmarks/semantics/train.py"
        )
        read = readout(learner.encoder, scenes=READ, draw=draw)
        told = ", ".join(f"block {block} {share:.0%}" for block, share in read.items())
        log.info("selftaught: %d steps, loss %.3f, linear readout %s", steps, loss, told)

    train_for(
        learner,
        optimizers(learner, lr=4e-3, keep=("encoder.embeddings",)),
        batch=lambda share: data.batch(112 if share < FIRST else SIDE, same=max(0.0, 1 - share / SAME)),
        loss=loss,
        write=export,
        minutes=minutes,
        seed=seed,
        ema=0.99,
        save_every=250,
    )


@torch.no_grad()
def readout(
    encoder: nn.Module,
    *,
    blocks: Sequence[int] = (1, 2, 3, 4),
    scenes: int,
    draw: Draw = world.scene,
    asked_of: Draw | None = None,
) -> dict[int, float]:
    """Of each block the share of held-out object patches whose kind a linear map names rightly; the map is the least-squares
    one of other scenes' patches. asked_of: draws the scenes that are asked, where these are others."""
    found: dict[int, list[list[Tensor]]] = {block: [] for block in blocks}
    kinds: list[list[Tensor]] = []
    for first, one in ((10**6, draw), (10**6 + scenes, asked_of or draw)):
        kinds.append([])
        for block in blocks:
            found[block].append([])
        for index in range(scenes):
            scene = one(np.random.default_rng(first + index))
            pixels = torch.from_numpy(scene.source()).permute(2, 0, 1)[None]
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
            states = encoder(normalise(pixels), output_hidden_states=True).hidden_states
            most, labels = (each.flatten() for each in most_frequent(torch.from_numpy(scene.labels()), GRID))
            inside = (most > 0.9) & (labels != world.GROUND)
            kinds[-1].append(labels[inside])
            for block in blocks:
                patches = F.layer_norm(states[block][0, 1:].float(), (128,))[inside]
                found[block][-1].append(F.pad(patches, (0, 1), value=1.0))
    learned, asked = (torch.cat(each) for each in kinds)
    shares = {}
    for block in blocks:
        known, new = (torch.cat(each) for each in found[block])
        weights = torch.linalg.lstsq(known, F.one_hot(learned, world.GROUND).float()).solution
        shares[block] = ((new @ weights).argmax(-1) == asked).float().mean().item()
    return shares


def load(path: Path = FILE) -> nn.Module:
    """The encoder of a file that `train` or the demo's training wrote."""
    encoder = build_model(SPEC)
    encoder.load_state_dict({name: tensor.float() for name, tensor in read_weights(path)[0].items()})
    return encoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--scenes", type=int, default=60, help="that the map learns from, and as many that it is asked of"
    )
    parser.add_argument("--forms", choices=forms.SPREADS, help="the map learns on trained forms, and is asked of these")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    learned, asked = (
        world.scene if spread is None else partial(forms.scene, spread=spread)
        for spread in (options.forms and "trained", options.forms)
    )
    encoders = {"without labels": load(), "with labels": load(demo.DINO), "random weights": build_model(SPEC).eval()}
    found = {
        name: readout(encoder, scenes=options.scenes, draw=learned, asked_of=asked)
        for name, encoder in encoders.items()
    }
    told = {**about(torch.device("cpu")), "scenes": options.scenes, "forms": options.forms}
    publish({"about": told, "right, by block": found}, options.output)


if __name__ == "__main__":
    main()
