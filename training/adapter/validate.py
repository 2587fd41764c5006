"""Pictures that are always the same: velocity losses with right, wrong and no conditions, and a grid to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ...files.pictures import Picture, save_picture
from ...files.writing import make_folder
from ...flux_patch.rows import DinoRow
from ...tiling.plan import plan_tiles
from ...upscaling.joint import TileRow, flow_sigmas, sample
from ..core.monitor import Monitor
from ..core.trainer import Trainer
from ..data.sample import Sample
from .cases import generator_for
from .prepare import Prepared
from .step import CELL, ON, TOKEN, TrainRow, make_row, null_velocities, velocity_losses

Condition = Literal["own", "swap", "text", "dino", "none"]
CONDITIONS: tuple[Condition, ...] = ("own", "swap", "text", "dino", "none")
LEVELS = (0.2, 0.5, 0.8)  # of the range of noise levels
REDRAW, REDRAW_STEPS = 0.6, 8  # highest noise level (where no row begins at a source) and steps of the grid's pictures


@dataclass(frozen=True, eq=False)
class Shown:
    """A validation picture, its degraded source [3, H, W], and both as FLUX and DINO see them."""

    sample: Sample
    source: Tensor
    picture: Prepared


class Validation:
    """Looks at the averaged weights every so many steps; the pictures are prepared when they are first needed."""

    def __init__(self, trainer: Trainer, folder: Path) -> None:
        self.trainer, self.folder = trainer, folder
        self._shown: list[Shown] = []

    def run(self, monitor: Monitor, *, step: int) -> None:
        """Write the losses into the log and the grid into ``samples/``, where they are due."""
        settings = self.trainer.config.output
        if settings.validate_every and step % settings.validate_every == 0:
            monitor.write({"step": step, "validation": self.losses()})
        if settings.sample_every and step % settings.sample_every == 0:
            grid = self.grid()
            monitor.picture("samples", grid, step=step)
            place = self.folder / "samples" / f"step-{step:06d}.png"
            make_folder(place.parent)
            save_picture(Picture(grid[None]), place)

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Mean velocity loss with: own features and text, another picture's features and text, text, DINO, nothing.

        As in training: with the guidance that is learned taken off what was found.
        """
        shown = self.shown()
        found = {}
        with self.trainer.averaged():
            for condition in CONDITIONS:
                rows = [row for i in range(len(shown)) for row in self._rows(shown, i, condition)]
                found[condition] = float(torch.cat([self._losses(part) for part in self._batches(rows)]).mean())
        return found

    @torch.no_grad()
    def grid(self) -> Tensor:
        """[3, H, W] in 0..1, a line per picture: its source, redrawn without DINO, redrawn with it, and the truth."""
        lines = []
        with self.trainer.averaged():
            for shown in self.shown():
                redrawn = [self._redraw(shown, dino=dino) for dino in (False, True)]
                lines.append(torch.cat([shown.source, *redrawn, shown.sample.pixels], dim=2))
        width = max(line.shape[2] for line in lines)
        padded = [torch.nn.functional.pad(line, (0, width - line.shape[2])) for line in lines]
        return torch.cat(padded, dim=1).clamp(0, 1)

    def shown(self) -> list[Shown]:
        """The last pictures of the data."""
        if not self._shown:
            trainer = self.trainer
            count = len(trainer.data)
            wanted = min(trainer.config.output.validation_pictures, count)
            found = [self._show(index) for index in range(count - wanted, count)]
            self._shown = [shown for shown in found if shown is not None]
            if len(self._shown) < 2:
                raise ValueError(
                    f"{len(self._shown)} of the last {wanted} pictures can be used, validation needs 2: "
                    f"raise validation_pictures or mend the data"
                )
        return self._shown

    def _show(self, index: int) -> Shown | None:
        trainer = self.trainer
        preparer, seed = trainer.preparer, trainer.config.optimisation.seed
        generator = generator_for(seed, "validation", index)
        sample = trainer.data.get(index, generator=generator)
        if sample is None:
            return None
        source = preparer.degraded(sample, weak=False, generator=generator)
        features = sample.features or trainer.host.features(source[None], preparer.encode_settings)
        return Shown(sample, source, preparer.prepared(sample, features, degraded=source))

    def _rows(self, shown: Sequence[Shown], i: int, condition: Condition) -> list[TrainRow]:
        """The rows of one picture: the same windows, noise and noise levels under every condition."""
        config = self.trainer.config
        picture = shown[i].picture
        if condition == "swap":
            picture = replace(picture, features=shown[(i + 1) % len(shown)].picture.features)
        low, high = config.optimisation.sigma
        generator = generator_for(config.optimisation.seed, "validation rows", i)
        case = "both" if condition in ("own", "swap") else condition
        places: list[tuple[float, float | None]] = [(low + (high - low) * level, None) for level in LEVELS]
        if config.conditions.from_source:
            start = config.conditions.start[1]
            places += [(start * level, start) for level in LEVELS]
        return [
            make_row(picture, case=case, sigma=sigma, start=start, tile=config.data.tile, generator=generator)
            for sigma, start in places
        ]

    def _batches(self, rows: Sequence[TrainRow]) -> list[Sequence[TrainRow]]:
        size = self.trainer.config.optimisation.batch
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _losses(self, rows: Sequence[TrainRow]) -> Tensor:
        host, guidance = self.trainer.host, self.trainer.config.conditions.dino_guidance
        with self.trainer.autocast():
            null = null_velocities(host, rows) if guidance > 1 else None
            return velocity_losses(host, rows, guidance=guidance, null=null)[0]

    def _redraw(self, shown: Shown, *, dino: bool) -> Tensor:
        """The source brought to a noise level and back by FLUX, in tiles of the training's size; [3, H, W]."""
        trainer = self.trainer
        host, config = trainer.host, trainer.config
        height, width = shown.source.shape[-2:]
        tile = config.data.tile or max(height, width)
        plan = plan_tiles(height, width, tile=tile, overlap=tile // 4 // TOKEN * TOKEN).scaled(CELL)
        latents = host.encode(shown.source[None]).float().to(host.device)
        generator = generator_for(config.optimisation.seed, "redraw")
        picture = shown.picture
        with trainer.autocast():
            tokens = host.adapter.project(picture.features.to(host.device)) if dino and picture.features else None

        def velocity(x: Tensor, sigma: float, rows: Sequence[TileRow]) -> Tensor:
            with trainer.autocast():
                return host.velocity(
                    x,
                    torch.full((len(x),), sigma, device=x.device),
                    context=picture.context.to(x.device).expand(len(x), -1, -1),
                    pooled=picture.pooled.to(x.device).expand(len(x), -1),
                    rows=[DinoRow(tokens, 0, row.box.fractions(plan.height, plan.width), ON) for row in rows],
                )

        conditions, highest = config.conditions, min(REDRAW, config.optimisation.sigma[1])
        clean = sample(
            velocity,
            latents,
            noise=torch.randn(latents.shape, generator=generator).to(latents),
            sigmas=flow_sigmas(REDRAW_STEPS, strength=conditions.start[1] if conditions.from_source else highest),
            plan=plan,
            tile_batch=config.optimisation.batch,
        )
        return host.decode(clean)[0].float().cpu()
