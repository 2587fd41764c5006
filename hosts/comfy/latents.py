"""What a model of the host says of its latents: cells, channels, tokens and dimensions. No family is written down here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...flux_patch.families import FLUX1, ModelFamily
from ...tiling import plan
from ...tiling.plan import Fit, TilePlan

COARSEST = 8  # cells of a token where a model says nothing: whole tokens of any that is known to have some
PATCHES = ("patch_size", "patch_spatial", "patch")  # a transformer's own words for it, one number or one per axis


@dataclass(frozen=True)
class Latents:
    """channels: of a cell, which is ``cell`` px wide. patch: cells that origins of tiles keep to, a transformer's tokens or what
    a UNet's deepest level sees as one. framed: latents are [B, C, 1, h, w], as those of models that also make videos."""

    channels: int
    cell: int
    patch: int
    framed: bool = False

    @property
    def grid(self) -> int:
        """Side in px of what tiles keep to."""
        return self.cell * self.patch

    def __str__(self) -> str:
        frames = " in frames" if self.framed else ""
        return f"{self.channels} channels per {self.cell} px{frames}"

    def plan_tiles(self, height: int, width: int, *, tile: int, overlap: int, fit: Fit = "balanced") -> TilePlan:
        """``tiling.plan_tiles`` on the model's own grids, in px."""
        return plan.plan_tiles(height, width, tile=tile, overlap=overlap, grid=self.grid, cell=self.cell, fit=fit)

    def check_plan(self, tiles: TilePlan) -> None:
        """ValueError for a plan on the grids of another model."""
        if (tiles.cell, tiles.grid) != (self.cell, self.grid):
            raise ValueError(
                f"the tile plan is for cells of {tiles.cell} px and origins at multiples of {tiles.grid}, the model has cells of "
                f"{self.cell} px and needs multiples of {self.grid}: connect the model to Plan Tiles too"
            )

    def check_vae(self, vae: Any, *, name: str) -> None:
        """ValueError for a VAE of other latents."""
        other = latents_of_vae(vae)
        if (other.channels, other.cell, other.framed) != (self.channels, self.cell, self.framed):
            raise ValueError(
                f"the {name} has latents of {other}, the model of {self}: load the model's own VAE, or the small one of its "
                "latents (taef1 for FLUX.1 and Z-Image, taef2 for FLUX.2, lighttaew2_1 for Qwen-Image and Krea 2)"
            )

    def family(self, title: str) -> ModelFamily:
        """As a row of the table for what only asks for grids; adapters need a row that stands in it."""
        return replace(
            FLUX1,
            name=title,
            title=title,
            members=title,
            latent_channels=self.channels,
            cell=self.cell,
            patch=self.patch,
            mechanisms=(),
            supported=False,
        )


OF_FLUX1 = Latents(FLUX1.latent_channels, FLUX1.cell, FLUX1.patch)


def latents_of(model: Any) -> Latents:
    """Of a MODEL; ValueError for one that makes no pictures, which cannot be cut into tiles."""
    latent = model.get_model_object("latent_format")
    dimensions = latent.latent_dimensions
    if dimensions == 1 or (dimensions == 2 and latent.latent_rgb_factors is None):
        raise ValueError(
            f"the model's latents are {type(latent).__name__}, sound or solids, tiles need those of pictures: connect a model "
            "that makes pictures"
        )
    patch = patch_of(model.get_model_object("diffusion_model"))
    return Latents(latent.latent_channels, latent.spacial_downscale_ratio, patch, framed=dimensions == 3)


def latents_of_vae(vae: Any) -> Latents:
    """Of a VAE. The host names the ratio of a small one before its cells are folded, as taef2 folds 2 x 2."""
    cell, tiny = vae.spacial_compression_decode(), getattr(vae.first_stage_model, "taesd_decoder", None)
    if tiny is not None:
        cell *= max(1, math.isqrt(vae.latent_channels // tiny[1].in_channels))
    return Latents(vae.latent_channels, cell, 1, framed=vae.latent_dim == 3)


def patch_of(module: Any) -> int:
    """Cells per side of a token, or of what the deepest level of a UNet sees as one."""
    levels = getattr(module, "channel_mult", None)
    if isinstance(levels, Sequence):
        return 2 ** (len(levels) - 1)
    for name in PATCHES:
        size = getattr(module, name, None)
        if isinstance(size, int):
            return size
        if isinstance(size, Sequence) and size and isinstance(size[-1], int):
            return max(size[-2:])
    return COARSEST


def check_canvas(latents: Tensor) -> None:
    """ValueError for latents that are not [B, C, h, w] or [B, C, 1, h, w]."""
    if latents.ndim not in (4, 5):
        raise ValueError(
            f"the latent has {latents.ndim} dimensions, tiles need a picture's 4, or 5 with one frame: connect the latent of a "
            "picture"
        )
    if latents.ndim == 5 and latents.shape[2] != 1:
        raise ValueError(
            f"the latent holds {latents.shape[2]} frames of a video, tiles are for one: sample it without tiles, or frame by "
            "frame"
        )


def flat(latents: Tensor) -> Tensor:
    """[B, C, 1, h, w] as [B, C, h, w]; what is so already stays."""
    return latents[:, :, 0] if latents.ndim == 5 else latents


def like(latents: Tensor, other: Tensor) -> Tensor:
    """[B, C, h, w] with as many dimensions as other latents."""
    return latents.unsqueeze(2) if other.ndim == 5 and latents.ndim == 4 else latents


def framed(latents: Tensor, model: Any) -> Tensor:
    """[B, C, h, w] as a MODEL's inner model has them."""
    return latents.unsqueeze(2) if model.latent_format.latent_dimensions == 3 and latents.ndim == 4 else latents
