"""Mean and variance of latents, by which whatever generates them scales them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...files.errors import printable, whole
from ...files.weights import write_weights
from .files import VERSION, read_kind

FORMAT = "dinotile_flatdino_statistics"


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of the latents of ``pictures``: mean and variance [T, F] of each number, float32."""

    mean: Tensor
    variance: Tensor
    pictures: int

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or self.mean.shape != self.variance.shape:
            raise ValueError(
                f"mean {list(self.mean.shape)} and variance {list(self.variance.shape)} must both be [T, F]"
            )

    def scaled(self, latents: Tensor) -> Tensor:
        """[..., T, F] with mean 0 and variance 1 where they vary."""
        return (latents - self.mean.to(latents)) / self._deviation().to(latents)

    def unscaled(self, latents: Tensor) -> Tensor:
        """Back."""
        return latents * self._deviation().to(latents) + self.mean.to(latents)

    def _deviation(self) -> Tensor:
        return self.variance.sqrt().clamp(min=1e-6)


class Sums:
    """Collects statistics batch by batch, without loss of precision (Chan et al., 1979)."""

    def __init__(self) -> None:
        self.mean, self.squares, self.count = torch.zeros(()), torch.zeros(()), 0

    def add(self, latents: Tensor) -> None:
        """latents: [B, T, F]; ValueError where they are not finite."""
        if not bool(latents.isfinite().all()):
            raise ValueError("latents are not finite: the FlatDINO or the features are damaged, check both")
        batch = latents.detach().double().cpu()
        mean, count = batch.mean(0), len(batch)
        shift, total = mean - self.mean, self.count + count
        self.squares = self.squares + (batch - mean).square().sum(0) + shift.square() * self.count * count / total
        self.mean, self.count = self.mean + shift * count / total, total

    def result(self) -> Statistics:
        """ValueError for fewer than two pictures, which do not vary."""
        if self.count < 2:
            raise ValueError(f"statistics of {self.count} pictures say nothing, at least 2 are needed: give more data")
        return Statistics(self.mean.float(), (self.squares / self.count).float(), self.count)


def save_statistics(statistics: Statistics, path: Path, *, flat: str) -> None:
    """Write them whole or not at all. flat: the fingerprint of the FlatDINO that made the latents."""
    about = {"format": FORMAT, "version": VERSION, "flat": flat, "pictures": str(statistics.pictures)}
    write_weights(path, {"mean": statistics.mean, "variance": statistics.variance}, about)


def load_statistics(path: str | Path, *, flat: str) -> Statistics:
    """Of the latents of the FlatDINO with fingerprint ``flat``; ValueError, one sentence, for another's and any other file."""
    path = Path(path)
    tensors, about = read_kind(path, kind=FORMAT, needed="are statistics of latents", command="compute-stats")
    if about.get("flat") != flat:
        raise ValueError(
            f"{path.name} is of the latents of another FlatDINO ({printable(about.get('flat', ''))}, not {flat}): make it anew "
            "with `dinotile flatdino compute-stats`"
        )
    with whole(path.name, "statistics file"):
        return Statistics(tensors["mean"].float(), tensors["variance"].float(), int(about["pictures"]))
