"""A FlatDINO as a task of the trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...dino.compress.bottleneck import Gaussian
from ...dino.compress.checkpoint import save_flat
from ...dino.compress.model import LEARNED, FlatDino
from ...dino.compress.statistics import Statistics, Sums
from ...hosts.attention import kernels
from ..core.config import OptimisationSettings
from ..core.optimiser import autocast
from ..core.random import generator_for, item_at
from ..core.task import Task
from .losses import cosines, divergence, restored
from .measure import Tally
from .name import Experiment
from .patches import Patches

FILE = "flat.safetensors"  # in the output folder
TRIES = 50  # of other pictures where one cannot be used
SEEN = 256  # pictures whose latents the statistics in the file are of


@dataclass(frozen=True, eq=False)
class FlatRow:
    """patches: [layers, h, w, D]. noise: [T, F]. keep: tokens that are given. share: of the divergence's weight, 0 to 1."""

    name: str
    patches: Tensor
    noise: Tensor
    keep: int
    share: float


class FlatTask(Task):
    """Trains ``model`` on the pictures ``train`` of ``data`` and looks at those of ``held``, numbers in ``looked``.

    kernel: of attention, a name of ``hosts.attention``.
    """

    def __init__(
        self,
        model: FlatDino,
        experiment: Experiment,
        settings: OptimisationSettings,
        *,
        data: Patches,
        train: Sequence[int],
        looked: Patches,
        held: Sequence[int],
        path: Path,
        device: torch.device,
        kernel: str = "auto",
    ) -> None:
        self.model, self.experiment, self.settings, self.path = model.to(device).train(), experiment, settings, path
        self.data, self.train, self.looked, self.held = data, list(train), looked, list(held)
        self.device, self.kernel = device, kernel
        self.parameters = dict(model.named_parameters())
        self.gaussian = isinstance(model.bottleneck, Gaussian)
        inner = ("inner",) if model.config.inner else ()
        self.measures = ("huber", "cosine", *inner, *(("kl",) if self.gaussian else ()))

    def begin(self, *, looks: bool) -> None:
        """One picture through the model, before anything else is done."""
        row = self.rows([0], step=0, total=1)
        try:
            self.losses(row, watch=False)["loss"].sum().backward()
        except RuntimeError as error:
            if self.kernel == "auto":
                raise
            said = str(error).splitlines()[0]
            raise ValueError(
                f"attention {self.kernel} does not run on this {self.device.type} with these tokens ({said}): use auto"
            ) from error
        for parameter in self.parameters.values():
            assert parameter.grad is not None
            parameter.grad.zero_()

    def rows(self, slots: Sequence[int], *, step: int, total: int) -> list[FlatRow]:
        generators = [generator_for(self.settings.seed, "row", step, slot) for slot in slots]
        draws = [torch.rand(4, generator=generator).tolist() for generator in generators]
        indices = [self._index(step * total + slot) for slot in slots]
        found = self.data.batch(indices, draws)
        rows = []
        for place, patches in enumerate(found):
            generator = generators[place]
            if patches is None:
                indices[place], patches = self._other(generator, draws[place])
            config = self.model.config
            rows.append(
                FlatRow(
                    name=self.data.names[indices[place]],
                    patches=patches,
                    noise=torch.randn(config.tokens, config.features, generator=generator),
                    keep=draw_keep(config.tokens, generator) if config.nested else config.tokens,
                    share=min(1.0, (step + 1) / self.experiment.annealing) if self.experiment.annealing else 1.0,
                )
            )
        return rows

    def losses(self, rows: Sequence[FlatRow], *, watch: bool) -> dict[str, Tensor]:
        true = torch.stack([row.patches for row in rows]).to(self.device)  # [B, layers, h, w, D]
        noise = torch.stack([row.noise for row in rows]).to(self.device)
        share = torch.tensor([row.share for row in rows], device=self.device)
        keep = torch.tensor([row.keep for row in rows], device=self.device) if self.model.config.nested else None
        with kernels(self.kernel), autocast(self.settings, device=self.device):
            latents = self.model.latents(true[:, 0], noise)
            found = self.model.decoder(latents.values, keep)
        errors = restored(found, true)  # [B, layers]
        loss = errors[:, 0] + divergence(latents, self.experiment, share=share)
        told = {"huber": errors[:, 0], "cosine": cosines(found[:, 0].detach(), true[:, 0])}
        if self.model.config.inner:
            loss = loss + self.experiment.inner_weight * errors[:, 1]
            told["inner"] = errors[:, 1]
        if latents.kl is not None:
            told["kl"] = latents.kl.sum((1, 2))
        return {"loss": loss, **told}

    def name(self, row: FlatRow) -> str:
        return f"picture {row.name}"

    def identity(self) -> dict[str, Any]:
        return {"name": self.experiment.name, "flat": self.model.config.values(), "dino": self.data.made.encoder}

    def details(self) -> dict[str, dict[str, float]]:
        """Pictures that were left out, by reason."""
        return {"skipped": dict(self.data.skipped)}

    def validate(self) -> dict[str, float]:
        """Of held-out pictures and latents without noise: see ``Tally``; of quantised ones also the share of the codes in use."""
        tally = Tally()
        with self._looking():
            for _, true in self.looked.whole(self.held):
                true = true.to(self.device)
                latents = self.model.encode(true[:, 0])
                tally.add(self.model.decode(latents), true[:, 0])
                if self.model.config.levels:
                    tally.note_codes(self.model.codes(latents))
        return tally.numbers(self.model.config)

    def export(self, *, steps: int, rows_per_step: int) -> None:
        """The model with the averaged weights, and statistics of latents of at most 256 of the training pictures."""
        provenance: dict[str, Any] = {
            "name": self.experiment.name,
            "steps": steps,
            "rows_per_step": rows_per_step,
            "pictures": len(self.train),
            "encoder": self.data.made.encoder,
            "optimisation": self.settings.model_dump(),
        }
        save_flat(self.model, self.path, statistics=self._statistics(), provenance=provenance)

    def _statistics(self) -> Statistics | None:
        sums = Sums()
        with self._looking():
            order = torch.randperm(len(self.train), generator=generator_for(self.settings.seed, "statistics"))
            for _, true in self.data.whole([self.train[index] for index in order[:SEEN].tolist()]):
                sums.add(self.model.encode(true[:, 0].to(self.device)))
        return sums.result() if sums.count > 1 else None

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """The model in evaluation mode and without gradients."""
        self.model.eval()
        with torch.no_grad():
            yield
        self.model.train()

    def _index(self, position: int) -> int:
        return self.train[item_at(position, count=len(self.train), seed=self.settings.seed)]

    def _other(self, generator: torch.Generator, draws: Sequence[float]) -> tuple[int, Tensor]:
        """Another picture for one that cannot be used."""
        for _ in range(TRIES):
            index = self.train[int(torch.randint(len(self.train), (), generator=generator))]
            patches = self.data.batch([index], [draws])[0]
            if patches is not None:
                return index, patches
        raise ValueError(f"{TRIES} pictures in a row cannot be used ({self.data.skipped}): check the data")


def draw_keep(tokens: int, generator: torch.Generator) -> int:
    """Nested dropout: one of 1, 2, 4, ... and all tokens, each as likely."""
    choices = [*(2**power for power in range(tokens.bit_length()) if 2**power < tokens), tokens]
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def units_of(model: FlatDino) -> list[nn.Module]:
    """The modules that a step calls, inner ones first."""
    halves = (model.encoder, model.decoder)
    return [unit for half in halves for unit in (*half.vit.blocks, half)]


def free_of_decay(names: Sequence[str]) -> frozenset[str]:
    """Of parameters' names those that are tokens themselves, which no weight decay pulls to zero."""
    return frozenset(name for name in names if name.rpartition(".")[2] in LEARNED)
