"""Pictures that are always the same: velocity losses with right, wrong and no conditions, and a grid to look at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ...flux_patch.guide import Guide, PictureGuide
from ...flux_patch.tokens import DinoTokens
from ...tiling.plan import TilePlan
from ...upscaling.joint import JointEuler
from ...upscaling.pipeline import upscale
from ...upscaling.settings import UpscaleSettings
from ..core.optimiser import autocast
from ..core.random import generator_for
from ..data.sample import Sample
from .config import TrainConfig
from .dropout import Kept
from .encode import EncodedPicture, PictureEncoder
from .step import ON, TrainRow, make_row, training_losses

Comparison = Literal["own", "swap", "text", "dino", "none"]
COMPARISONS: dict[Comparison, Kept] = {"own": "both", "swap": "both", "text": "text", "dino": "dino", "none": "none"}
LEVELS = (0.2, 0.5, 0.8)  # of the range of noise levels
REDRAW, REDRAW_STEPS = 0.6, 8  # highest noise level (where no row begins at a source) and steps of the grid's pictures


@dataclass(frozen=True, eq=False)
class ValidationPicture:
    """A picture, its degraded source [3, H, W], and both as FLUX and DINO see them."""

    sample: Sample
    source: Tensor
    encoded: EncodedPicture


class Validation:
    """Looks at the weights as they are; the pictures are encoded when they are first needed."""

    def __init__(self, pictures: PictureEncoder) -> None:
        self.encoder, self.host, self.config = pictures, pictures.host, pictures.config
        self._pictures: list[ValidationPicture] = []

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Mean velocity loss with: own features and text, another picture's features and text, text, DINO, nothing.

        As in training: with the guidance that is learned taken off what was predicted.
        """
        size, means = self.config.optimisation.batch, {}
        for comparison in COMPARISONS:
            rows = [row for i in range(len(self.pictures())) for row in self._rows(i, comparison)]
            batches = [rows[start : start + size] for start in range(0, len(rows), size)]
            losses = [training_losses(self.host, batch, self.config)[0] for batch in batches]
            means[comparison] = float(torch.cat(losses).mean())
        return means

    @torch.no_grad()
    def grid(self) -> Tensor:
        """[3, H, W] in 0..1, a line per picture: its source, redrawn without DINO, redrawn with it, and the truth."""
        lines = []
        for picture in self.pictures():
            redrawn = [self._redraw(picture, dino=dino) for dino in (False, True)]
            lines.append(torch.cat([picture.source, *redrawn, picture.sample.pixels], dim=2))
        width = max(line.shape[2] for line in lines)
        padded = [torch.nn.functional.pad(line, (0, width - line.shape[2])) for line in lines]
        return torch.cat(padded, dim=1).clamp(0, 1)

    def pictures(self) -> list[ValidationPicture]:
        """The last pictures of the data; ValueError where fewer than two can be used."""
        if not self._pictures:
            count = len(self.encoder.data)
            wanted = min(self.config.output.validation_pictures, count)
            last = [self._picture(index) for index in range(count - wanted, count)]
            self._pictures = [picture for picture in last if picture is not None]
            if len(self._pictures) < 2:
                raise ValueError(
                    f"{len(self._pictures)} of the last {wanted} pictures can be used, validation needs 2: "
                    f"raise validation_pictures or mend the data"
                )
        return self._pictures

    def _picture(self, index: int) -> ValidationPicture | None:
        encoder = self.encoder
        generator = generator_for(self.config.optimisation.seed, "validation", index)
        sample = encoder.data.get(index, generator=generator)
        if sample is None:
            return None
        source = encoder.degraded(sample, weak=False, generator=generator)
        features = sample.features or encoder.features(source)
        return ValidationPicture(sample, source, encoder.encoded(sample, features, degraded=source))

    def _rows(self, i: int, comparison: Comparison) -> list[TrainRow]:
        """The rows of one picture: the same windows, noise and noise levels in every comparison."""
        config, pictures = self.config, self.pictures()
        picture = pictures[i].encoded
        if comparison == "swap":
            picture = replace(picture, features=pictures[(i + 1) % len(pictures)].encoded.features)
        low, high = config.optimisation.sigma
        generator = generator_for(config.optimisation.seed, "validation rows", i)
        places: list[tuple[float, float | None]] = [(low + (high - low) * level, None) for level in LEVELS]
        if config.conditions.from_source:
            start = config.conditions.start[1]
            places += [(start * level, start) for level in LEVELS]
        return [
            make_row(
                picture,
                family=self.host.family,
                kept=COMPARISONS[comparison],
                sigma=sigma,
                start=start,
                tile=config.data.tile,
                generator=generator,
            )
            for sigma, start in places
        ]

    def _redraw(self, picture: ValidationPicture, *, dino: bool) -> Tensor:
        """The source brought to a noise level and back by FLUX, in tiles of the training's size; [3, H, W]."""
        host, config, encoded = self.host, self.config, picture.encoded
        assert host.adapter is not None
        tile, token = config.data.tile or max(picture.source.shape[-2:]), host.family.token
        starts = (
            config.conditions.start[1] if config.conditions.from_source else min(REDRAW, config.optimisation.sigma[1])
        )
        settings = UpscaleSettings(
            scale=1.0,
            denoise=starts,
            steps=REDRAW_STEPS,
            tile=tile,
            overlap=tile // 4 // token * token,
            guidance=encoded.text.guidance,
            seed=config.optimisation.seed,
            tile_batch=min(config.optimisation.batch, 1024),
        )
        tokens = None
        if dino and encoded.features is not None:
            with autocast(config.optimisation, device=host.device):
                tokens = host.adapter.module.project(encoded.features.to(host.device))
        sampler = _Autocast(host, encoded.text, settings, config=config)
        redrawn, _ = upscale(host, picture.source[None], settings, sampler=sampler, make_guide=_Known(tokens))
        return redrawn[0].float().cpu()


class _Autocast(JointEuler):
    """In the precision of the training; the VAE around it is in its own."""

    def __init__(self, *arguments: Any, config: TrainConfig) -> None:
        super().__init__(*arguments)
        self.config = config

    def __call__(self, latents: Tensor, **options: Any) -> Tensor:
        with autocast(self.config.optimisation, device=self.host.device):
            return super().__call__(latents, **options)


@dataclass(frozen=True, eq=False)
class _Known:
    """``pipeline.MakeGuide``: tokens that are there already, or the learned null."""

    tokens: DinoTokens | None

    def __call__(self, pixels: Tensor, *, plan: TilePlan, size: tuple[int, int]) -> Guide:
        return PictureGuide(self.tokens, ON)

    def describe(self) -> dict[str, Any]:
        return {}
