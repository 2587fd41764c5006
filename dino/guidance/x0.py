"""Guidance of a sampling run by its estimates of the clean latents, x0: with any weights, and nothing through the model.

At each noise level the model's estimate is moved to where its picture agrees better with the source, and the sampler goes on
from there. Of the model only its output is needed. Forces say how the picture must change, at the source's own size, one after
the other: first the anchor, agreement with the source itself, then DINO. The encoder brings the change to the latents.
DINO's step is Polyak's, energy / |gradient|^2 times the gradient, which is as long as the disagreement is large: a fixed one
does next to nothing where the picture is wrong and adds noise where it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .autoencoder import Autoencoder

KEPT = 0.5  # of the gradient of the steps before: gradients of networks that saw no noise are rough (arXiv 2406.17399)
LONGEST = (
    1.0  # RMS of DINO's step over the picture's own contrast, against runaways: a tighter bound hides the strength
)
NOTHING_TO_DO = (
    "guide has nothing to do beside anchor 1, which gives all of the source: lower anchor, or set guide to 0"
)
Energy = Callable[..., tuple[Tensor, Tensor]]  # (picture, call=) -> a scalar, and the gradient by the picture


@dataclass(frozen=True)
class GuidanceSettings:
    """anchor: share of the way to the source, 0 is off, 1 all. dino: strength, 0 is off, 1 usual. low, high: shares of the first
    noise level between which estimates are moved.
    every: of how many estimates one is moved, as far as that many would be."""

    anchor: float = 1.0
    dino: float = 0.0
    low: float = 0.05
    high: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        for name, most in (("anchor", 1.0), ("dino", 10.0)):
            value = getattr(self, name)
            if not 0 <= value <= most:  # also refuses NaN
                raise ValueError(f"guidance {name} {value} must be from 0 to {most:g}: 0 is off, usually 1")
        if self.anchor == 1 and self.dino > 0:
            raise ValueError(NOTHING_TO_DO)
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"guidance window {self.low} to {self.high} must rise within 0 to 1, shares of the first noise level: usually "
                "0.05 to 1"
            )
        if self.every < 1:
            raise ValueError(f"guidance every {self.every} must be 1 or more: 1 for each step, 2 for every second")

    @property
    def off(self) -> bool:
        return self.anchor == 0 and self.dino == 0


@dataclass
class Told:
    """Of one force, over a run: how many estimates were moved, agreed already, or were left as the step was not finite; the
    energy of the first and the last; and the mean RMS of the steps, of pixels in 0..1."""

    moved: int = 0
    agreed: int = 0
    not_finite: int = 0
    first: float | None = None
    last: float | None = None
    mean_move: float = 0.0

    def note(self, energy: float) -> None:
        self.first = energy if self.first is None else self.first
        self.last = energy

    def note_move(self, length: float) -> None:
        self.mean_move = (self.moved * self.mean_move + length) / (self.moved + 1)
        self.moved += 1


class Force(Protocol):
    told: Told

    def step(self, picture: Tensor, *, latent: int, call: int, times: int) -> Tensor | None:
        """How a picture [1, 3, h, w] must change, ``times`` as far as by one step; None: it agrees. latent: its number in the
        batch. call: counts estimates, from 0."""
        ...

    def again(self) -> Force:
        """The same for another run."""
        ...


@dataclass(eq=False)
class Anchor:
    """To the source [1, 3, h, w], by a share of the way. The energy is the mean squared difference."""

    source: Tensor
    strength: float
    told: Told = field(default_factory=Told)

    def step(self, picture: Tensor, *, latent: int, call: int, times: int) -> Tensor | None:
        apart = self.source - picture
        self.told.note(float(apart.square().mean()))
        return apart * (1 - (1 - self.strength) ** times)

    def again(self) -> Anchor:
        return Anchor(self.source, self.strength)


@dataclass(eq=False)
class Descent:
    """Down an energy. mask: [1, 1, h, w] in 0..1 over the picture, how much of a step is made; None: all. kept: share of the
    gradients before in the next. before: their mean, for each latent of the batch."""

    energy: Energy
    strength: float
    mask: Tensor | None = None
    kept: float = KEPT
    before: dict[int, Tensor] = field(default_factory=dict)
    told: Told = field(default_factory=Told)

    def step(self, picture: Tensor, *, latent: int, call: int, times: int) -> Tensor | None:
        with torch.inference_mode(False):
            clean = picture.clone()  # no inference tensor, which has no gradient
            energy, gradient = self.energy(clean, call=call)
        self.told.note(float(energy))
        if energy <= 0:
            return None
        mean = torch.lerp(gradient, self.before.get(latent, gradient), self.kept)
        step = mean * (-times * self.strength * energy / mean.square().sum())
        length = step.square().mean().sqrt()
        if length.isfinite():
            self.before[latent] = mean
        step = step * (LONGEST * clean.std() / length).clamp(max=1)
        return step if self.mask is None else step * self.mask

    def again(self) -> Descent:
        return Descent(self.energy, self.strength, self.mask, self.kept)


class GuidedEstimates:
    """Guidance of one run: moves the estimates of its pictures, and tells what it did.

    autoencoders, forces: of each picture; forces by name, in the order in which they act. mask: [1 or B, 1, h, w] in 0..1 over
    the canvas, how much of a move is made; None: all. check: raises where the user wants the work to end.
    """

    def __init__(
        self,
        autoencoders: Sequence[Autoencoder],
        forces: Sequence[Mapping[str, Force]],
        settings: GuidanceSettings,
        *,
        mask: Tensor | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.autoencoders, self.forces, self.settings = autoencoders, forces, settings
        self.mask, self.check = mask, check
        self.calls = self.outside = 0

    @torch.no_grad()
    def __call__(self, x0: Tensor, sigma: float, *, start: float) -> Tensor:
        """Estimates [B, C, h, w] at noise level ``sigma`` of a run that starts at ``start``; B a multiple of the pictures.
        ValueError where a sampler gave them another size."""
        settings = self.settings
        highest = settings.high * start * (1 + 1e-4)  # some samplers ask for exp(log(sigma))
        if not settings.low * start <= sigma <= highest:
            self.outside += 1
            return x0
        call, skipped = divmod(self.calls, settings.every)
        self.calls += 1
        if skipped:
            return x0
        (rows, columns), (height, width) = (each.shape[-2:] for each in (x0, self.autoencoders[0].plain))
        if (rows, columns) != (height, width):
            raise ValueError(
                f"guidance began on a latent of {width} x {height} cells, the sampler goes on with one of {columns} x {rows}: "
                "choose a sampler that keeps the size, or leave the guidance out"
            )
        moved = [self._moved(image, number, call=call) for number, image in enumerate(x0.float().split(1))]
        return torch.cat(moved).to(x0)

    def _moved(self, x0: Tensor, latent: int, *, call: int) -> Tensor:
        of = latent % len(self.autoencoders)
        code, change = self.autoencoders[of], None
        picture = code.picture(x0)
        for force in self.forces[of].values():
            self.check()
            seen = picture if change is None else picture + change
            step = force.step(seen, latent=latent, call=call, times=self.settings.every)
            if step is None:
                force.told.agreed += 1
            elif not bool(step.isfinite().all()):
                force.told.not_finite += 1
            else:
                force.told.note_move(float(step.square().mean().sqrt()))
                change = step if change is None else change + step
        if change is None:
            return x0
        moved = x0 + code.change(change).to(x0)
        return moved if self.mask is None else torch.lerp(x0, moved, self.mask[latent % len(self.mask)].to(x0))

    def again(self) -> GuidedEstimates:
        """For another run of the same pictures: it counts anew, and knows no gradients of this one."""
        forces = [{name: force.again() for name, force in of.items()} for of in self.forces]
        return GuidedEstimates(self.autoencoders, forces, self.settings, mask=self.mask, check=self.check)

    def report(self) -> dict[str, Any]:
        """Estimates outside the window, and of each picture what its forces did."""
        told = [{name: asdict(force.told) for name, force in forces.items()} for forces in self.forces]
        return {"outside_window": self.outside, "pictures": told}


def over_tiles(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One report of runs that each had a part of one picture: sums, and means over the parts; None of none."""
    if not reports:
        return None
    found: dict[str, dict[str, Any]] = {}
    for name in reports[0]["pictures"][0]:
        parts = [report["pictures"][0][name] for report in reports]
        counts = {key: sum(part[key] for part in parts) for key in ("moved", "agreed", "not_finite")}
        known = {key: [part[key] for part in parts if part[key] is not None] for key in ("first", "last", "mean_move")}
        found[name] = counts | {key: sum(values) / len(values) if values else None for key, values in known.items()}
    return {"outside_window": sum(report["outside_window"] for report in reports), "pictures": [found]}
