"""Validation pictures redrawn in every mode, side by side, and what a judge says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...files.pictures import from_image
from ...flux_patch.guide import Guide, PictureGuide
from ...flux_patch.tokens import DinoTokens
from ...tiling.plan import TilePlan
from ...upscaling.joint import JointEuler
from ...upscaling.pipeline import upscale
from ...upscaling.settings import UpscaleSettings
from ..core.optimiser import autocast
from .config import TrainConfig
from .encode import EncodedPicture
from .judge import Judge
from .step import ON
from .validate import Validation

REDRAW, STEPS = 0.6, 8  # highest noise level (where no row begins at a source), and steps
LETTERS = 11, 16  # px of a title at least, and its part of a picture's width


@torch.no_grad()
def draw_sheet(validation: Validation, *, judge: Judge | None = None) -> tuple[Tensor, dict[str, float]]:
    """[3, H, W] in 0..1, a line per picture: its source, what became of it in each of MODES, and the truth, under their names.

    And the judge's distance of each column to the truth, averaged over the pictures; empty without a judge.
    """
    lines, distances = [], {}
    for i, picture in enumerate(validation.pictures()):
        drawn: dict[str, Tensor] = {}
        for mode, first in validation.twins().items():
            known = drawn.get(first)
            drawn[mode] = redraw(validation, picture.source, validation.seen(i, mode)) if known is None else known
        lines.append({"source": picture.source, **drawn, "truth": picture.sample.pixels})
    if judge is not None:
        found = [judge.distances(list(line.values())[:-1], line["truth"]) for line in lines]
        means = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
        distances = dict(zip(lines[0], means, strict=False))
    return titled(lines), distances


def redraw(validation: Validation, source: Tensor, seen: EncodedPicture) -> Tensor:
    """The source [3, H, W] brought to a noise level and back by FLUX with these conditions, in tiles of the training's size."""
    host, config = validation.host, validation.config
    assert host.adapter is not None
    settings = settings_of(config, token=host.latents.token)
    tokens = None
    if seen.features is not None:
        with autocast(config.optimisation, device=host.device):
            tokens = host.adapter.module.project(seen.features.to(host.device))
    sampler = _Autocast(host, seen.text, settings, config=config)
    redrawn, _ = upscale(host, source[None], settings, sampler=sampler, make_guide=_Known(tokens))
    return redrawn[0].float().cpu()


def settings_of(config: TrainConfig, *, token: int) -> UpscaleSettings:
    """By which a sheet is drawn; whatever a configuration with ``output.sample_every`` allows is allowed there. token: in px."""
    tile = config.data.tile or max(config.data.size)
    starts = config.conditions.start[1] if config.conditions.from_source else min(REDRAW, config.optimisation.sigma[1])
    return UpscaleSettings(
        scale=1.0,
        denoise=starts,
        steps=STEPS,
        tile=tile,
        overlap=tile // 4 // token * token,
        guidance=config.model.guidance,
        seed=config.optimisation.seed,
        tile_batch=min(config.optimisation.batch, 1024),
    )


def titled(lines: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Pictures [3, h, w] of one size, a line per mapping and a column per name, with the names on top: [3, H, W]."""
    columns = [
        torch.cat([_title(name, width=first.shape[2]), *(line[name] for line in lines)], dim=1)
        for name, first in lines[0].items()
    ]
    return torch.cat(columns, dim=2).clamp(0, 1)


def _title(text: str, *, width: int) -> Tensor:
    """[3, h, width], black on white."""
    size = max(LETTERS[0], width // LETTERS[1])
    strip = Image.new("RGB", (width, 3 * size // 2), "white")
    font = ImageFont.load_default(size)
    ImageDraw.Draw(strip).text((width / 2, strip.height / 2), text, fill="black", font=font, anchor="mm")
    return from_image(strip).pixels[0]


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
