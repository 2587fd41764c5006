"""Guidance of a sampling run by its estimates of the clean latents, x0: with any weights, and nothing through the model.

At each noise level the model's estimate is moved to where its picture agrees better with the source, and the sampler goes on
from there. The gradient stops at the estimate (arXiv 2412.00100): of the model only its output is needed. First comes the
anchor, agreement at the source's own resolution; then DINO, on what the anchor gives. The step is Polyak's, energy /
|gradient|^2 times the gradient, which is as long as the disagreement is large: a fixed one does next to nothing where the
picture is wrong and adds noise where it is right. The move has no factor for the spacing of the steps, as Euler's own shrinks
with it: what several moves gain still grows with the number of steps (measured: 1.5, 2.8, 3.3 dB over 4, 8, 24), more with one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from .decoded import Decoder
from .energy import Energy

KEPT = (
    0.5  # of the gradient of the steps before, as gradients of networks that saw no noise are rough (arXiv 2406.17399)
)
LONGEST = (
    1.0  # RMS of a move over sigma times the estimate's, only against runaways: a tighter bound hides the strength
)


@dataclass(frozen=True)
class GuidanceSettings:
    """anchor, dino: strengths, 0 is off, 1 usual. low, high: shares of the first noise level between which estimates are moved.
    every: of how many estimates one is moved, that much further."""

    anchor: float = 1.0
    dino: float = 0.0
    low: float = 0.05
    high: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        for name, most in (("anchor", 2.0), ("dino", 10.0)):
            value = getattr(self, name)
            if not 0 <= value <= most:  # also refuses NaN
                raise ValueError(f"guidance {name} {value} must be from 0 to {most:g}: 0 is off, usually 1")
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
    """Of one force, over a run: how many estimates were moved, agreed already, or were left as the gradient was not finite; the
    energy of the first and the last; and the mean RMS of the moves over that of the estimates."""

    moved: int = 0
    agreed: int = 0
    not_finite: int = 0
    first: float | None = None
    last: float | None = None
    mean_move: float = 0.0

    def note(self, energy: float) -> None:
        self.first = energy if self.first is None else self.first
        self.last = energy

    def note_move(self, share: float) -> None:
        self.mean_move = (self.moved * self.mean_move + share) / (self.moved + 1)
        self.moved += 1


@dataclass
class Force:
    """An energy of one picture with its strength. kept: share of the gradients before in the next.
    before: their mean, for each latent of the batch that shows the picture."""

    energy: Energy
    strength: float
    kept: float = 0.0
    before: dict[int, Tensor] = field(default_factory=dict)
    told: Told = field(default_factory=Told)

    def move(self, x0: Tensor, decoder: Decoder, *, latent: int, call: int, times: int, most: float) -> Tensor:
        """x0 [1, C, h, w], moved ``times`` as far as by one step, by an RMS of at most ``most``."""
        picture, pull = decoder(x0)
        energy, wished = self.energy(picture, call=call)
        self.told.note(float(energy))
        if energy <= 0:
            self.told.agreed += 1
            return x0
        gradient = pull(wished)
        mean = torch.lerp(gradient, self.before.get(latent, gradient), self.kept)
        step = mean * (times * self.strength * energy / mean.square().sum())
        length = step.square().mean().sqrt()
        if not bool(length.isfinite()):
            self.told.not_finite += 1
            return x0
        self.before[latent] = mean
        share = (most / length).clamp(max=1)
        self.told.note_move(float(share * length / x0.square().mean().sqrt()))
        return x0 - share * step


class GuidedEstimates:
    """Guidance of one run: moves the estimates of its pictures, and tells what it did.

    decoders, forces: of each picture; forces by name, in the order in which they act. mask: [1 or B, 1, h, w] in 0..1 over the
    canvas, how much of a move is made; None: all. check: raises where the user wants the work to end.
    """

    def __init__(
        self,
        decoders: Sequence[Decoder],
        forces: Sequence[dict[str, Force]],
        settings: GuidanceSettings,
        *,
        mask: Tensor | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.decoders, self.forces, self.settings, self.mask, self.check = decoders, forces, settings, mask, check
        self.calls = self.outside = 0

    def __call__(self, x0: Tensor, sigma: float, *, start: float) -> Tensor:
        """Estimates [B, C, h, w] at noise level ``sigma`` of a run that starts at ``start``; B a multiple of the pictures."""
        settings = self.settings
        if not settings.low * start <= sigma <= settings.high * start:
            self.outside += 1
            return x0
        call, skipped = divmod(self.calls, settings.every)
        self.calls += 1
        if skipped:
            return x0
        with torch.inference_mode(False), torch.no_grad():
            clean = x0.float().clone()  # no inference tensor, which has no gradient
            moved = [self._moved(image, number, sigma=sigma, call=call) for number, image in enumerate(clean.split(1))]
            return torch.cat(moved).to(x0)

    def _moved(self, x0: Tensor, latent: int, *, sigma: float, call: int) -> Tensor:
        of, moved = latent % len(self.decoders), x0
        for force in self.forces[of].values():
            self.check()
            most = LONGEST * sigma * float(x0.square().mean().sqrt())
            moved = force.move(moved, self.decoders[of], latent=latent, call=call, times=self.settings.every, most=most)
        return moved if self.mask is None else torch.lerp(x0, moved, self.mask[latent % len(self.mask)].to(x0))

    def report(self) -> dict[str, Any]:
        """Estimates outside the window, and of each picture what its forces did."""
        told = [{name: asdict(force.told) for name, force in forces.items()} for forces in self.forces]
        return {"outside_window": self.outside, "pictures": told}
