"""How close drawn pictures come to the true ones: PSNR, SSIM, and a Frechet distance by DINO's class tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...dino.compress.checkpoint import LoadedFlat
from ...dino.compress.flow import sample
from ...dino.compress.generator import Generator
from ...dino.compress.pixels import PixelDecoder
from ...dino.encode import DinoEncoder, EncodeSettings
from ...files.pixels import resize
from ...files.progress import Progress, counted
from ..core.random import generator_for
from .patches import TOGETHER, EncodedPatches

NO_FID = (
    "not computed, as Inception's weights come as a pickle, which nothing here reads; the distance above is its formula on "
    "DINO's class tokens, and compares with itself only"
)


@dataclass(frozen=True)
class PixelScore:
    """psnr: dB, mean of pictures. ssim: mean. frechet: of the class tokens of drawn and true pictures, 0 for the same. samples:
    the same of as many pictures that a generator made up; None without one."""

    pictures: int
    psnr: float
    ssim: float
    frechet: float
    samples: float | None = None

    def values(self) -> dict[str, Any]:
        left_out = {"samples"} if self.samples is None else set()
        return {"name": "pixels", **{name: value for name, value in asdict(self).items() if name not in left_out}}

    def lines(self) -> list[str]:
        told = f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}, Frechet distance by DINO {self.frechet:.2f}"
        shown = [f"pixels of {self.pictures} pictures: {told}"]
        if self.samples is None:
            return [*shown, f"rFID: {NO_FID}"]
        return [
            *shown,
            f"{self.pictures} samples: Frechet distance by DINO {self.samples:.2f}",
            f"rFID, gFID: {NO_FID}",
        ]


class ClassToken(nn.Module):
    """Pictures [B, 3, S, S] in 0..1 -> DINO's class tokens [B, D], as torchmetrics wants features."""

    def __init__(self, encoder: DinoEncoder) -> None:
        super().__init__()
        self.encoder, self.num_features = encoder, encoder.spec.width

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder.features(pixels, settings=EncodeSettings(side=self.encoder.spec.train_side, layers="last"))[
            1
        ]


@torch.no_grad()
def pixel_score(
    flat: LoadedFlat,
    decoder: PixelDecoder,
    data: EncodedPatches,
    *,
    device: torch.device,
    generator: Generator | None = None,
    guidance: float = 1.0,
    progress: Progress | None = None,
) -> PixelScore:
    """Of the middles of pictures; ValueError for another encoder's, for fewer than 2, and without torchmetrics."""
    distance, similarity = _metrics(data.encoder, device)
    data.check(flat.config, "the features")
    side, model = decoder.config.height, flat.module.to(device)
    squares, alike = [], []
    for index in counted(range(len(data)), "pixels", progress):
        (crop,) = data.crops([index])
        (patches,) = data.encoded([crop])
        if crop is None or patches is None:
            continue
        true = resize(crop[None].float(), height=side, width=side).to(device)
        found = decoder(model.decode(model.encode(patches[:1].to(device)))).float().clamp(0, 1)
        squares.append(float((found - true).square().mean().clamp(min=1e-10).log10()))
        alike.append(float(similarity(found, true, data_range=1.0)))
        distance.update(true, real=True)
        distance.update(found, real=False)
    if len(squares) < 2:
        raise ValueError(f"{len(squares)} pictures can be used, at least 2 are needed ({data.skipped}): give more")
    mean = -10 * sum(squares) / len(squares)
    count, frechet, samples = len(squares), float(distance.compute()), None
    if generator is not None:
        distance.reset()  # it still knows the true pictures
        for latents in made_up(generator, count, guidance=guidance, device=device, progress=progress):
            distance.update(decoder(model.decode(latents)).float().clamp(0, 1), real=False)
        samples = float(distance.compute())
    return PixelScore(count, mean, sum(alike) / count, frechet, samples)


def made_up(
    generator: Generator, count: int, *, guidance: float, device: torch.device, progress: Progress | None = None
) -> Iterator[Tensor]:
    """So many latents, a few at once, [B, T, F]: of all classes in turn, if it knows some."""
    config = generator.module.config
    known = range(len(config.classes)) if config.classes else [generator.module.no_class]
    labels = torch.tensor([known[place % len(known)] for place in range(count)], device=device)
    for start in counted(range(0, count, TOGETHER), "samples", progress):
        part = labels[start : start + TOGETHER]
        draws = generator_for(0, "samples", start)
        noise = torch.randn(len(part), config.tokens, config.features, generator=draws).to(device)
        yield sample(generator.module, generator.statistics, labels=part, noise=noise, guidance=guidance)


def _metrics(encoder: DinoEncoder, device: torch.device) -> tuple[Any, Any]:
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise ValueError(
            'measures of pixels need torchmetrics, which is not installed: pip install "dinotile[flatdino]"'
        ) from error
    distance = FrechetInceptionDistance(feature=ClassToken(encoder), reset_real_features=False).to(device)
    return distance, structural_similarity_index_measure
