"""Generator files: a network with the statistics of the latents that it makes, for one FlatDINO."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ...files.errors import printable, whole
from ...files.weights import write_weights
from .checkpoint import MEAN, VARIANCE
from .dit import DitConfig, LatentDit
from .files import VERSION, filled, read_kind
from .statistics import Statistics

FORMAT = "dinotile_flatdino_generator"


@dataclass(frozen=True, eq=False)
class Generator:
    module: LatentDit
    statistics: Statistics

    def labels(self, name: str, count: int) -> torch.Tensor:
        """So many labels of the class of that name, empty for none: [count]. ValueError for a class that it does not know."""
        classes = self.module.config.classes
        if name and name not in classes:
            known = ", ".join(map(printable, classes[:10])) or "none"
            raise ValueError(f"the class {name!r} is unknown to this generator, it knows {known}: choose one, or none")
        return torch.full((count,), classes.index(name) if name else self.module.no_class)


def save_generator(module: LatentDit, path: str | Path, *, statistics: Statistics) -> None:
    """Write it whole or not at all; ValueError where that fails."""
    about = {"format": FORMAT, "version": VERSION, "config": json.dumps(module.config.values(), sort_keys=True)}
    about["pictures"] = str(statistics.pictures)
    tensors = {**module.state_dict(), MEAN: statistics.mean, VARIANCE: statistics.variance}
    write_weights(Path(path), tensors, about)


def load_generator(path: str | Path, *, flat: str, device: torch.device | str = "cpu") -> Generator:
    """Of latents of the FlatDINO with fingerprint ``flat``; ValueError in one sentence for another's and any other file."""
    path = Path(path)
    tensors, about = read_kind(path, kind=FORMAT, needed="is a generator of latents", command="train-generator")
    with whole(path.name, "generator"):
        values = json.loads(about["config"])
        config = DitConfig(**{**values, "classes": tuple(values["classes"])})
        statistics = Statistics(tensors.pop(MEAN).float(), tensors.pop(VARIANCE).float(), int(about["pictures"]))
    if config.flat != flat:
        raise ValueError(
            f"{path.name} makes latents of another FlatDINO ({printable(config.flat)}, not {flat}): give that one, or train anew"
        )
    with whole(path.name, "generator"), torch.device("meta"), torch.inference_mode(False):
        module = LatentDit(config)
    filled(module, tensors, name=path.name, device=device)
    if tuple(statistics.mean.shape) != (config.tokens, config.features):
        raise ValueError(f"{path.name} has statistics of other latents than it makes: train it again")
    return Generator(module, statistics)
