"""How close drawn pictures come to the true ones: PSNR, SSIM, and a Frechet distance by DINO's class tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...dino.compress.checkpoint import LoadedFlat
from ...dino.compress.pixels import PixelDecoder
from ...dino.encode import DinoEncoder, EncodeSettings
from ...files.pixels import resize
from ...files.progress import Progress, counted
from .patches import EncodedPatches

NO_FID = (
    "rFID: not computed, as Inception's weights come as a pickle, which nothing here reads; the distance above is its formula on "
    "DINO's class tokens, and compares with itself only"
)


@dataclass(frozen=True)
class PixelScore:
    """psnr: dB, mean of pictures. ssim: mean. frechet: of the class tokens of drawn and true pictures, 0 for the same."""

    pictures: int
    psnr: float
    ssim: float
    frechet: float

    def values(self) -> dict[str, Any]:
        return {"name": "pixels", **asdict(self)}

    def lines(self) -> list[str]:
        told = f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}, Frechet distance by DINO {self.frechet:.2f}"
        return [f"pixels of {self.pictures} pictures: {told}", NO_FID]


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
    return PixelScore(len(squares), mean, sum(alike) / len(alike), float(distance.compute()))


def _metrics(encoder: DinoEncoder, device: torch.device) -> tuple[Any, Any]:
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise ValueError(
            'measures of pixels need torchmetrics, which is not installed: pip install "dinotile[flatdino]"'
        ) from error
    return FrechetInceptionDistance(feature=ClassToken(encoder)).to(device), structural_similarity_index_measure
