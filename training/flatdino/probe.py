"""``dinotile flatdino probe``: what a code still knows of classes, by k nearest neighbours and by a linear classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dino.compress.checkpoint import LoadedFlat
from ...files.errors import printable
from ...files.progress import Progress, counted
from .patches import TOGETHER, Patches

NEIGHBOURS = (10, 20, 100)
TEMPERATURE = 0.07  # of cosines, as DINO's own evaluation has it


@dataclass(frozen=True)
class Probe:
    """Share of the test pictures whose class is found. knn: by number of neighbours."""

    name: str
    width: int
    knn: dict[int, float]
    linear: float


@dataclass(frozen=True, eq=False)
class Labelled:
    """What stands for pictures, [n, width] each by name, and the number of their class, [n]."""

    vectors: dict[str, Tensor]
    labels: Tensor


@torch.no_grad()
def probe(
    flat: LoadedFlat, train: Patches, test: Patches, *, device: torch.device, progress: Progress | None = None
) -> list[Probe]:
    """Of the mean of DINO's patches, of the latents one after the other, of their mean, and of the mean of what is restored.

    A picture's class is the folder that it lies in. ValueError for fewer than two classes, a class of one picture alone, and
    a class that only the test knows.
    """
    names = classes_of(train)
    unknown = sorted({_class(name) for name in test.names} - set(names))
    if unknown:
        raise ValueError(f"{_said(unknown[0])} has no picture to learn from: give some, or take it from the test")
    known, asked = (_labelled(flat, data, names, device=device, progress=progress) for data in (train, test))
    return [
        Probe(
            name,
            known.vectors[name].shape[1],
            {k: nearest(known.vectors[name], known.labels, asked.vectors[name], asked.labels, k) for k in NEIGHBOURS},
            linear(known.vectors[name], known.labels, asked.vectors[name], asked.labels),
        )
        for name in known.vectors
    ]


def classes_of(data: Patches) -> list[str]:
    """The folders that pictures lie in; ValueError where they are no two classes of two pictures each."""
    counts = Counter(_class(name) for name in data.names)
    few = sorted(name for name, count in counts.items() if count < 2)
    if len(counts) < 2:
        only = printable(next(iter(counts))) or "no folder of its own"
        raise ValueError(
            f"there is one class ({only}), at least 2 are needed: give a folder with a folder for each class"
        )
    if few:
        raise ValueError(f"the class {printable(few[0])} has one picture, at least 2 are needed: add some or remove it")
    return sorted(counts)


def check_classes(data: Patches, found: Collection[str]) -> None:
    """ValueError for a class of the data none of whose pictures are among those ``found``, that could be used."""
    empty = sorted({_class(name) for name in data.names} - {*found})
    if empty:
        raise ValueError(
            f"no picture of {_said(empty[0])} can be used ({data.skipped}): mend its pictures, or remove it"
        )


def nearest(known: Tensor, labels: Tensor, asked: Tensor, truth: Tensor, k: int) -> float:
    """Of the k most alike by cosine, each votes for its class by exp(cosine / 0.07): the share that is right."""
    cosines = F.normalize(asked, dim=1) @ F.normalize(known, dim=1).T
    best, places = cosines.topk(min(k, len(known)), dim=1)
    votes = torch.zeros(len(asked), int(labels.max()) + 1).scatter_add_(1, labels[places], (best / TEMPERATURE).exp())
    return float((votes.argmax(1) == truth).float().mean())


def linear(known: Tensor, labels: Tensor, asked: Tensor, truth: Tensor) -> float:
    """Logistic regression on standardised numbers."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ValueError('the linear probe needs scikit-learn: pip install "dinotile[flatdino]"') from error
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, C=0.1))
    model.fit(known.numpy(), labels.numpy())
    return float(model.score(asked.numpy(), truth.numpy()))


def table(probes: list[Probe]) -> list[str]:
    """For people to read."""
    wide = max(len(each.name) for each in probes)
    head = "  ".join(f"{k}-NN".rjust(6) for k in NEIGHBOURS)
    rows = [
        f"{p.name:<{wide}}  {p.width:>6}  " + "  ".join(f"{p.knn[k]:6.1%}" for k in NEIGHBOURS) + f"  {p.linear:6.1%}"
        for p in probes
    ]
    return [f"{'':<{wide}}   width  {head}  linear", *rows]


def _labelled(
    flat: LoadedFlat, data: Patches, names: list[str], *, device: torch.device, progress: Progress | None
) -> Labelled:
    data.check(flat.config, "the features")
    model, found, labels = flat.module.to(device), {}, []
    for start in counted(range(0, len(data), TOGETHER), "encode", progress):
        for numbers, patches in data.whole(range(start, min(start + TOGETHER, len(data)))):
            true = patches[:, 0].to(device)
            latents = model.encode(true)
            vectors = {
                "DINO, mean": true.mean((1, 2)),
                "latents": latents.flatten(1),
                "latents, mean": latents.mean(1),
                "restored, mean": model.decode(latents).mean((1, 2)),
            }
            for name, vector in vectors.items():
                found.setdefault(name, []).append(vector.float().cpu())
            labels += [names.index(_class(data.names[number])) for number in numbers]
    check_classes(data, {names[label] for label in labels})
    return Labelled({name: torch.cat(parts) for name, parts in found.items()}, torch.tensor(labels))


def _said(name: str) -> str:
    return f"the class {printable(name)}" if name else "the folder itself"


def _class(name: str) -> str:
    return name.rpartition("/")[0]
