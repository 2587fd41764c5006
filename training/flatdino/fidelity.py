"""How close drawn pictures come to the true ones: PSNR, SSIM, and Frechet distances by DINO's class tokens and by Inception."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from .frechet import Gaussian, gaussian
from .inception import WIDTH, Inception
from .patches import TOGETHER, EncodedPatches

NO_FID = "not computed, as --inception is left out; the distance above is its formula on DINO's class tokens"
FEW = f"; of fewer than {WIDTH} pictures it is far too large, and compares with as many only"


@dataclass(frozen=True)
class PixelScore:
    """psnr: dB, mean of pictures. ssim: mean. frechet: of the class tokens of drawn and true pictures, 0 for the same. samples:
    the same of as many pictures that a generator made up. rfid, gfid: as these two, by Inception. None without what they need."""

    pictures: int
    psnr: float
    ssim: float
    frechet: float
    samples: float | None = None
    rfid: float | None = None
    gfid: float | None = None

    def values(self) -> dict[str, Any]:
        return {"name": "pixels", **{name: value for name, value in asdict(self).items() if value is not None}}

    def lines(self) -> list[str]:
        told = f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}, Frechet distance by DINO {self.frechet:.2f}"
        shown, named = [f"pixels of {self.pictures} pictures: {told}"], "rFID"
        if self.samples is not None:
            shown.append(f"{self.pictures} samples: Frechet distance by DINO {self.samples:.2f}")
            named = "rFID, gFID"
        if self.rfid is None:
            return [*shown, f"{named}: {NO_FID}"]
        found = ", ".join(f"{value:.2f}" for value in (self.rfid, self.gfid) if value is not None)
        return [*shown, f"{named}: {found} by Inception{FEW if self.pictures < WIDTH else ''}"]


class ClassToken(nn.Module):
    """Pictures [B, 3, S, S] in 0..1 -> DINO's class tokens [B, D]."""

    def __init__(self, encoder: DinoEncoder) -> None:
        super().__init__()
        self.encoder = encoder

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
    inception: Inception | None = None,
    progress: Progress | None = None,
) -> PixelScore:
    """Of the middles of pictures; ValueError for another encoder's, for fewer than 2, and without torchmetrics."""
    alike, judges = _similarity(), [ClassToken(data.encoder), *([inception] if inception is not None else [])]
    data.check(flat.config, "the features")
    model, measured = flat.module.to(device), []
    true, found = _Seen(judges), _Seen(judges)
    for pixels, patches in _pictures(data, side=decoder.config.height, device=device, progress=progress):
        drawn = decoder(model.decode(model.encode(patches))).float().clamp(0, 1)
        square = float((drawn - pixels).square().mean().clamp(min=1e-10).log10())
        measured.append((-10 * square, float(alike(drawn, pixels, data_range=1.0))))
        true.add(pixels)
        found.add(drawn)
    count = len(measured)
    data.check_count(count)
    known = true.gaussians()
    distance, *rfid = found.distances(known)
    samples, gfid = None, []
    if generator is not None:
        made = _Seen(judges)
        for latents in made_up(generator, count, guidance=guidance, device=device, progress=progress):
            made.add(decoder(model.decode(latents)).float().clamp(0, 1))
        samples, *gfid = made.distances(known)
    psnr, ssim = (sum(each) / count for each in zip(*measured, strict=True))
    by_inception = {name: told[0] for name, told in (("rfid", rfid), ("gfid", gfid)) if told}
    return PixelScore(count, psnr, ssim, distance, samples, **by_inception)


class _Seen:
    """What judges saw in a set of pictures, in memory until its Gaussians are taken: float32, 8 kB a picture for Inception."""

    def __init__(self, judges: Sequence[nn.Module]) -> None:
        self.judges, self.features = judges, [[] for _ in judges]

    def add(self, pixels: Tensor) -> None:
        for judge, features in zip(self.judges, self.features, strict=True):
            features.append(judge(pixels).float().cpu())

    def gaussians(self) -> list[Gaussian]:
        """One of each judge's features, which are let go."""
        found = []
        while self.features:
            found.append(gaussian(torch.cat(self.features.pop(0))))
        return found

    def distances(self, true: Sequence[Gaussian]) -> list[float]:
        return [one.distance(other) for one, other in zip(self.gaussians(), true, strict=True)]


def _pictures(
    data: EncodedPatches, *, side: int, device: torch.device, progress: Progress | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of all that can be used, one after another, the middle [1, 3, side, side] and its patches [1, h, w, D]."""
    for index in counted(range(len(data)), "pixels", progress):
        (crop,) = data.crops([index])
        (patches,) = data.encoded([crop])
        if crop is not None and patches is not None:
            yield resize(crop[None].float(), height=side, width=side).to(device), patches[:1].to(device)


def made_up(
    generator: Generator, count: int, *, guidance: float, device: torch.device, progress: Progress | None = None
) -> Iterator[Tensor]:
    """So many latents, a few at once, [B, T, F]: of all classes in turn, if it knows some. ValueError where not finite."""
    config = generator.module.config
    known = range(len(config.classes)) if config.classes else [generator.module.no_class]
    labels = torch.tensor([known[place % len(known)] for place in range(count)], device=device)
    for start in counted(range(0, count, TOGETHER), "samples", progress):
        part = labels[start : start + TOGETHER]
        draws = generator_for(0, "samples", start)
        noise = torch.randn(len(part), config.tokens, config.features, generator=draws).to(device)
        latents = sample(generator.module, generator.statistics, labels=part, noise=noise, guidance=guidance)
        if not bool(latents.isfinite().all()):
            raise ValueError(f"with guidance {guidance:g} samples are NaN or infinite: usually it is 1 to 4")
        yield latents


def _similarity() -> Callable[..., Any]:
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise ValueError(
            'measures of pixels need torchmetrics, which is not installed: pip install "dinotile[flatdino]"'
        ) from error
    return structural_similarity_index_measure
