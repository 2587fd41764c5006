"""``dinotile flatdino train-generator``: a network that makes latents, trained by flow matching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...dino.compress.checkpoint import LoadedFlat
from ...dino.compress.dit import DitConfig, new_dit
from ...dino.compress.flow import noisy, shift_of, shifted
from ...dino.compress.generator import save_generator
from ...dino.compress.statistics import Statistics, Sums
from ...files.fingerprints import fingerprint_of
from ...files.progress import Progress, counted
from ..core.config import OptimisationSettings, OutputSettings
from ..core.loop import fit
from ..core.optimiser import autocast
from ..core.output import check_output
from ..core.random import generator_for, item_at
from ..core.task import Task
from ..core.trainer import Trainer
from .patches import TOGETHER, Patches, split
from .probe import check_classes, classes_of

FILE = "generator.safetensors"  # in the output folder
WITHOUT = 0.1  # share of the rows whose class is left out, for guidance
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of noise, at which held-out latents are looked at


@dataclass(frozen=True, eq=False)
class LatentRow:
    name: str
    latents: Tensor  # [T, F], scaled
    noise: Tensor  # [T, F]
    sigma: float
    label: int


@dataclass(frozen=True, eq=False)
class LatentSet:
    """Latents [n, T, F] of a data set, as they are, with names of the samples and labels [n] in ``classes``."""

    latents: Tensor
    names: list[str]
    labels: Tensor
    classes: tuple[str, ...]


@torch.no_grad()
def encode_all(
    flat: LoadedFlat, data: Patches, *, classes: bool, device: torch.device, progress: Progress | None = None
) -> LatentSet:
    """The latents, without noise, of all pictures that can be used, in memory. classes: the folders they lie in are such."""
    data.check(flat.config, "the features")
    known = classes_of(data) if classes else []
    model, found, names = flat.module.to(device), [], []
    for start in counted(range(0, len(data), TOGETHER), "latents", progress):
        for numbers, patches in data.whole(range(start, min(start + TOGETHER, len(data)))):
            found.append(model.encode(patches[:, 0].to(device)).cpu())
            names += [data.names[number] for number in numbers]
    if not names:
        raise ValueError(f"none of the {len(data)} samples can be used: {data.skipped}; check the data")
    labels = [known.index(name.rpartition("/")[0]) for name in names] if classes else [0] * len(names)
    if classes:
        check_classes(data, {known[label] for label in labels})
    return LatentSet(torch.cat(found), names, torch.tensor(labels), tuple(known))


class GeneratorTask(Task):
    """Learns the velocity of the latents of ``data``; see ``noisy``. Levels are drawn evenly, then shifted."""

    def __init__(
        self,
        flat: LoadedFlat,
        data: LatentSet,
        settings: OptimisationSettings,
        *,
        size: str,
        statistics: Statistics,
        path: Path,
        device: torch.device,
    ) -> None:
        config = DitConfig(flat.fingerprint, flat.config.tokens, flat.config.features, size, data.classes)
        self.model = new_dit(config, seed=settings.seed).to(device).train()
        self.settings, self.statistics, self.path, self.device = settings, statistics, path, device
        self.data, self.latents = data, statistics.scaled(data.latents)
        self.train, self.held = split(len(data.names), seed=settings.seed)
        self.shift = shift_of(config.tokens, config.features)
        self.parameters = dict(self.model.named_parameters())

    def rows(self, slots: Sequence[int], *, step: int, total: int) -> list[LatentRow]:
        rows = []
        for slot in slots:
            generator = generator_for(self.settings.seed, "row", step, slot)
            index = self.train[item_at(step * total + slot, count=len(self.train), seed=self.settings.seed)]
            level, dropped = torch.rand(2, generator=generator)
            label = int(self.data.labels[index]) if self.data.classes and dropped >= WITHOUT else self.model.no_class
            noise = torch.randn(self.latents.shape[1:], generator=generator)
            sigma = float(shifted(level, self.shift))
            rows.append(LatentRow(self.data.names[index], self.latents[index], noise, sigma, label))
        return rows

    def losses(self, rows: Sequence[LatentRow], *, watch: bool) -> dict[str, Tensor]:
        latents, noise = (
            torch.stack([getattr(row, name) for row in rows]).to(self.device) for name in ("latents", "noise")
        )
        sigma = torch.tensor([row.sigma for row in rows], device=self.device)
        labels = torch.tensor([row.label for row in rows], device=self.device)
        return {"loss": self._errors(latents, noise, sigma, labels)}

    def _errors(self, latents: Tensor, noise: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        x, velocity = noisy(latents, noise, sigma)
        with autocast(self.settings, device=self.device):
            found = self.model(x, sigma, labels)
        return (found.float() - velocity).square().mean((1, 2))  # [B]

    def name(self, row: LatentRow) -> str:
        return f"picture {row.name}"

    def identity(self) -> dict[str, Any]:
        scale = fingerprint_of(each.numpy().tobytes() for each in (self.statistics.mean, self.statistics.variance))
        return {"generator": self.model.config.values(), "statistics": scale}

    def validate(self) -> dict[str, float]:
        """The loss of held-out latents at five levels, with the same noise every time."""
        held, told = torch.tensor(self.held), {}
        latents, labels = self.latents[held].to(self.device), self.data.labels[held].to(self.device)
        labels = labels if self.data.classes else torch.full_like(labels, self.model.no_class)
        noise = torch.randn(latents.shape, generator=generator_for(self.settings.seed, "validation")).to(self.device)
        self.model.eval()
        with torch.no_grad():
            for level in LEVELS:
                sigma = torch.full((len(latents),), level, device=self.device)
                told[f"sigma {level}"] = float(self._errors(latents, noise, sigma, labels).mean())
        self.model.train()
        return told

    def export(self, *, steps: int, rows_per_step: int) -> None:
        save_generator(self.model, self.path, statistics=self.statistics)


def train_generator(
    flat: LoadedFlat,
    data: Patches,
    *,
    size: str,
    classes: bool,
    settings: OptimisationSettings,
    output: OutputSettings,
    statistics: Statistics | None,
    device: torch.device,
    resume: bool,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Encode the data once, train, and return the generator's file. statistics: None for those of the data."""
    path = Path(output.folder, FILE)
    check_output(path, resume=resume, setting="--output")
    latents = encode_all(flat, data, classes=classes, device=device, progress=progress)
    if statistics is None:
        sums = Sums()
        sums.add(latents.latents)
        statistics = sums.result()
    task = GeneratorTask(flat, latents, settings, size=size, statistics=statistics, path=path, device=device)
    about = {"size": size, "classes": classes, "optimisation": settings.model_dump()}
    fit(
        Trainer(task, settings, least=1.0),
        output,
        config=about,
        resume=resume,
        progress=progress,
        should_stop=should_stop,
    )
    return path
