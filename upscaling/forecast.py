"""What an upscaling would take, before any model is loaded: sizes, tiles and model calls are those of the run, seconds and memory
are estimates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..files.weights import read_shapes, weight_files
from ..flux_patch.families import FLUX1, plan_tiles
from ..flux_patch.geometry import FluxGeometry
from ..hosts.diffusers.load import read_geometry
from ..hosts.diffusers.sources import ModelFiles, Source, dino_path, local_path
from ..hosts.host import EMPTY_TOKENS
from ..hosts.rate import REACHED
from ..tiling.canvas import canvas_size, scaled_size
from ..tiling.plan import TilePlan
from .settings import UpscaleSettings

GIB = 2**30
OF_FLUX1 = FluxGeometry(3072, 24, 19, 38, 4096, 768)
SMALL_VAE = 10e6  # weights, below which it is a TAESD
VAE = {True: (467e3, 539e3), False: (4.3e6, 9.6e6)}  # operations per px, encode and decode: TAESD's form, FLUX.1's


@dataclass(frozen=True)
class Models:
    """What is known without loading. sizes: weights of each model but FLUX, whose are of its geometry."""

    geometry: FluxGeometry
    small_vae: bool
    sizes: dict[str, int]
    known: bool  # FLUX's file is here

    @classmethod
    def of(cls, files: ModelFiles) -> Models:
        """By the headers of those files that are here; what is on the hub is taken for FLUX.1."""
        known, vae = local_path(files.flux, quiet=True) is not None, _weights(files.vae)
        sizes = {name: _weights(source) for name, source in (("DINO", files.dino), ("adapter", files.adapter))}
        return cls(
            read_geometry(files.flux) if known else OF_FLUX1,
            vae is not None and vae < SMALL_VAE,
            {"VAE": vae or 84_000_000, **{name: size or 0 for name, size in sizes.items()}},
            known,
        )


@dataclass(frozen=True)
class Forecast:
    """size: of the result. calls: of FLUX, each for one tile. flops: of all models. memory: bytes by part."""

    size: tuple[int, int]
    plan: TilePlan
    calls: int
    flops: float
    memory: dict[str, float]

    def seconds(self, rate: float) -> float:
        """rate: of ``matrix_rate``."""
        return self.flops / (REACHED * rate)

    def lines(self, rate: float, *, room: int | None) -> Iterator[str]:
        """room: bytes of a GPU's memory."""
        plan, needed = self.plan, sum(self.memory.values())
        yield (
            f"{self.size[1]} x {self.size[0]} px, {self.size[0] * self.size[1] / 1e6:.1f} megapixels; {plan.count} tiles of "
            f"{plan.tile_width} x {plan.tile_height} px ({plan.work:.2f} times the canvas), {self.calls} times FLUX on a tile"
        )
        parts = ", ".join(f"{name} {size / GIB:.2g}" for name, size in self.memory.items())
        scarce = (
            f", MORE than the {room / GIB:.3g} GiB there: --weights fp8, a smaller --tile or --offload" if room else ""
        )
        work = f"{self.flops / 1e12:.3g} TFLOP at {REACHED * rate / 1e12:.2g} TFLOP/s"
        yield (
            f"about {spoken(self.seconds(rate))} (estimated: {work}), about {needed / GIB:.2g} GiB (estimated: {parts})"
            + (scarce if room and needed > room else "")
        )


def forecast(
    settings: UpscaleSettings,
    models: Models,
    *,
    height: int,
    width: int,
    dtype: torch.dtype,
    weights: str = "full",
    text: int = EMPTY_TOKENS,
    tile_batch: int = 1,
) -> Forecast:
    """Of a picture of that height and width. text: tokens. tile_batch: tiles in a call. Left out: DINO's own time, decoders,
    ControlNet, Redux, retries, upscale models, and text encoders, which are gone before FLUX is loaded."""
    size, geometry = scaled_size(height, width, scale=settings.scale), models.geometry
    canvas = canvas_size(*size, grid=FLUX1.token)
    plan = plan_tiles(*canvas, tile=settings.tile, overlap=settings.overlap, fit=settings.tile_fit)
    rows = 1 + (settings.cfg > 1) + (settings.dino_guidance > 1 and settings.dino_strength > 0)
    calls = rows * plan.count * settings.steps if settings.denoise > 0 else 0
    tokens = plan.tile_height * plan.tile_width // FLUX1.token**2 + text
    encode, decode = VAE[models.small_vae]
    looks = 0 if settings.on_estimates.off else settings.steps / settings.guide_every
    codings = 1 + looks + (settings.vae_detail > 0)
    flops = calls * block_flops(geometry, tokens) + codings * (encode + decode) * canvas[0] * canvas[1]
    wide = dtype.itemsize
    return Forecast(
        size,
        plan,
        calls,
        flops,
        {
            "FLUX": flux_bytes(geometry, wide=wide, weights=weights),
            **{name: wide * count for name, count in models.sizes.items() if count},
            "tiles": tile_batch * GIB * tokens / 4096 * geometry.hidden / OF_FLUX1.hidden * wide / 2,
        },
    )


def block_flops(geometry: FluxGeometry, tokens: int) -> float:
    """Of one forward pass: every block multiplies each token by 12 hidden^2 weights, and with all tokens twice."""
    blocks = geometry.double_blocks + geometry.single_blocks
    return blocks * (24 * tokens * geometry.hidden**2 + 4 * tokens**2 * geometry.hidden)


def flux_bytes(geometry: FluxGeometry, *, wide: int, weights: str) -> float:
    """Of the blocks' matrices, which are nearly all. wide: bytes of a weight in full. With fp8 the modulations stay wide."""
    square = geometry.hidden**2
    modulations = (12 * geometry.double_blocks + 3 * geometry.single_blocks) * square
    matrices = (24 * geometry.double_blocks + 12 * geometry.single_blocks) * square
    narrow = {"fp8": (wide, 1), "nf4": (0.5, 0.5)}.get(weights, (wide, wide))
    return narrow[0] * modulations + narrow[1] * matrices


def _weights(source: Source | None) -> int | None:
    """How many a file or folder that is here holds."""
    path = None if source is None else local_path(source, quiet=True)
    if path is None:
        return None
    files = weight_files(dino_path(path)) if path.is_file() else sorted(path.rglob("*.safetensors"))
    return sum(torch.Size(shape).numel() for file in files for shape in read_shapes(file)[0].values())


def spoken(seconds: float) -> str:
    return (
        f"{seconds:.2g} s"
        if seconds < 100
        else f"{seconds / 60:.2g} min"
        if seconds < 6000
        else f"{seconds / 3600:.2g} h"
    )
