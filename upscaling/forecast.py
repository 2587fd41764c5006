"""What an upscaling would take, before any model is loaded: sizes, tiles and model calls are those of the run, seconds and memory
are estimates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..files.weights import read_shapes, weight_files
from ..flux_patch.families import FAMILIES, FLUX1, FLUX2
from ..flux_patch.geometry import FluxGeometry
from ..hosts.diffusers.load import read_geometry
from ..hosts.diffusers.sources import ModelFiles, Source, dino_path, local_path
from ..hosts.rate import REACHED
from ..tiling.canvas import scaled_size
from ..tiling.moving import moved
from ..tiling.plan import TilePlan
from .settings import UpscaleSettings

GIB = 2**30
OF_FLUX1 = FluxGeometry(3072, 24, 19, 38, 4096, 768)
OF_KLEIN = FluxGeometry(3072, 24, 5, 20, 7680, 0, FLUX2.name)
OF_KLEIN_9B = FluxGeometry(4096, 32, 8, 24, 12288, 0, FLUX2.name)
OF_NAMES = {  # on the hub, of the variants that are not FLUX.1's size
    "black-forest-labs/FLUX.2-klein-4B": OF_KLEIN,
    "black-forest-labs/FLUX.2-klein-base-4B": OF_KLEIN,
    "black-forest-labs/FLUX.2-klein-9B": OF_KLEIN_9B,
    "black-forest-labs/FLUX.2-klein-base-9B": OF_KLEIN_9B,
    "black-forest-labs/FLUX.2-dev": FluxGeometry(6144, 48, 8, 48, 15360, 0, FLUX2.name),
}
# A block's matrices in squares of the width: what each token is multiplied by, and all of a double and of a single block; and the
# modulations of each, which FLUX.2's blocks share.
SQUARES = {FLUX1.name: (12, 24, 12, 12, 3), FLUX2.name: (13, 26, 13, 0, 0)}
CANVAS = 80.0  # bytes of the CPU's memory per px of a result in joint mode (benchmarks/tiling/growth.py)
SMALL_VAE = 10e6  # weights, below which it is a TAESD
VAE = {True: (467e3, 539e3), False: (4.3e6, 9.6e6)}  # operations per px, encode and decode: TAESD's form, FLUX.1's


@dataclass(frozen=True)
class Models:
    """What is known without loading. sizes: weights of each model but FLUX, whose are of its geometry."""

    geometry: FluxGeometry
    small_vae: bool
    sizes: dict[str, int]
    known: bool  # FLUX is not named on the hub

    @classmethod
    def of(cls, files: ModelFiles, *, no_dino: bool = False) -> Models:
        """By the headers of those files that are here; what is named on the hub is taken for the variant's, else FLUX.1's."""
        known, vae = local_path(files.flux) is not None, _weights(files.vae, "vae")
        looks = () if no_dino else (("DINO", files.dino), ("adapter", files.adapter))
        sizes = {name: _weights(source) for name, source in looks}
        return cls(
            read_geometry(files.flux) if known else OF_NAMES.get(str(files.flux), OF_FLUX1),
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
        tiles = f"{plan.count} {'tile' if plan.count == 1 else 'tiles'}"
        yield (
            f"{self.size[1]} x {self.size[0]} px, {self.size[0] * self.size[1] / 1e6:.1f} megapixels; {tiles} of "
            f"{plan.tile_width} x {plan.tile_height} px ({plan.work:.2f} times the canvas), {self.calls} times FLUX on a tile"
        )
        parts = ", ".join(f"{name} {number(size / GIB)}" for name, size in self.memory.items())
        scarce = (
            f", MORE than the {room / GIB:.3g} GiB there: --weights fp8, a smaller --tile or --offload" if room else ""
        )
        work = f"{number(self.flops / 1e12)} TFLOP at {number(REACHED * rate / 1e12)} TFLOP/s"
        yield (
            f"about {spoken(self.seconds(rate))} (estimated: {work}), about {number(needed / GIB)} GiB (estimated: {parts})"
            + (scarce if room and needed > room else "")
        )


def forecast(
    settings: UpscaleSettings,
    models: Models,
    *,
    height: int,
    width: int,
    dtype: torch.dtype,
    text: int,
    weights: str = "full",
    offload: str = "none",
) -> Forecast:
    """Of a picture of that height and width, one tile in a call. text: tokens. Left out: DINO's own time, decoders, ControlNet,
    Redux, retries, upscale models, and text encoders, which are gone before FLUX is loaded."""
    size, geometry = scaled_size(height, width, scale=settings.scale), models.geometry
    plan = settings.plan(height, width, latents=FLUX1)
    canvas = plan.height, plan.width
    if settings.moving and plan.count > 1:
        plan = moved(plan, step=0, seed=settings.seed)
    rows = 1 + (settings.cfg > 1) + (settings.dino_guidance > 1 and settings.dino_strength > 0)
    calls = rows * plan.count * settings.steps if settings.denoise > 0 else 0
    text = max(text, FAMILIES[geometry.family].text_length)
    tokens = plan.tile_height * plan.tile_width // FLUX1.token**2 + text
    encode, decode = VAE[models.small_vae]
    looks = 0 if settings.on_estimates.off else settings.steps / settings.guide_every
    codings = 1 + looks + (settings.vae_detail > 0)
    flops = calls * block_flops(geometry, tokens) + codings * (encode + decode) * canvas[0] * canvas[1]
    wide = dtype.itemsize
    kept = {"FLUX": flux_bytes(geometry, wide=wide, weights=weights)}
    kept |= {name: float(wide * count) for name, count in models.sizes.items() if count}
    if offload == "model":  # one at a time
        kept = dict([max(kept.items(), key=lambda part: part[1])])
    elif offload == "sequential":  # a block at a time
        kept = {"a block": kept["FLUX"] / (geometry.double_blocks + geometry.single_blocks)}
    tiles = GIB * tokens / 4096 * geometry.hidden / OF_FLUX1.hidden * wide / 2
    return Forecast(size, plan, calls, flops, {**kept, "a tile": tiles})


def canvas_bytes(size: tuple[int, int]) -> float:
    """What joint mode takes of the CPU's memory for a result of that height and width, beside the models."""
    return CANVAS * size[0] * size[1]


def block_flops(geometry: FluxGeometry, tokens: int) -> float:
    """Of one forward pass: every block multiplies each token by 12 hidden^2 weights (FLUX.2's by 13), and with all tokens
    twice."""
    blocks = geometry.double_blocks + geometry.single_blocks
    weights = SQUARES[geometry.family][0]
    return blocks * (2 * weights * tokens * geometry.hidden**2 + 4 * tokens**2 * geometry.hidden)


def flux_bytes(geometry: FluxGeometry, *, wide: int, weights: str) -> float:
    """Of the blocks' matrices, which are nearly all. wide: bytes of a weight in full. With fp8 the modulations stay wide."""
    square = geometry.hidden**2
    _, double, single, double_modulation, single_modulation = SQUARES[geometry.family]
    modulations = (double_modulation * geometry.double_blocks + single_modulation * geometry.single_blocks) * square
    matrices = (double * geometry.double_blocks + single * geometry.single_blocks) * square
    narrow = {"fp8": (wide, 1), "nf4": (0.5, 0.5)}.get(weights, (wide, wide))
    return narrow[0] * modulations + narrow[1] * matrices


def number(value: float) -> str:
    """Two digits or more, and no exponent."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{number(seconds)} s"
    return f"{number(seconds / 60)} min" if seconds < 5400 else f"{number(seconds / 3600)} h"


def _weights(source: Source | None, part: str = "") -> int | None:
    """How many a file or folder that is here holds; part: of a pipeline's folder."""
    path = None if source is None else local_path(source)
    if path is None:
        return None
    place = path / part if part and (path / part).is_dir() else path
    files = weight_files(dino_path(place)) if place.is_file() else sorted(place.glob("*.safetensors"))
    return sum(torch.Size(shape).numel() for file in files for shape in read_shapes(file)[0].values()) or None
