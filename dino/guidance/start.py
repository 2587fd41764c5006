"""From pictures and models to the guidance of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..encode import DinoEncoder, EncodeSettings
from .decoded import Decode, Decoder
from .energy import DinoEnergy, SourceEnergy
from .x0 import KEPT, Force, GuidanceSettings, GuidedEstimates

LAYERS = "2/3,last"  # detail and meaning


@dataclass(frozen=True)
class Canvas:
    """Where estimates lie. decode: latents [1, C, h, w] -> pixels [1, 3, H, W], about 0..1, differentiable. cell: px per latent
    cell. size: height and width in px that the picture has on the canvas, which may be padded beyond it."""

    decode: Decode
    cell: int
    size: tuple[int, int]


@torch.no_grad()
def guided_estimates(
    pixels: Tensor,
    latents: Tensor,
    settings: GuidanceSettings,
    *,
    canvas: Canvas,
    encoder: DinoEncoder | None = None,
    shown: Tensor | None = None,
    mask: Tensor | None = None,
    check: Callable[[], None] = lambda: None,
) -> GuidedEstimates:
    """pixels: the sources [B, 3, h, w] in 0..1. latents: [B, C, H, W] of the sources enlarged onto the canvas, where it runs.
    encoder: needed where ``settings.dino`` is not 0. shown: pictures [B, 3, h, w] that DINO's agreement is with, instead.
    """
    with torch.inference_mode(False):
        decoders, forces = [], []
        for number, latent in enumerate(latents.float().clone().split(1)):
            source = pixels[number : number + 1].to(latent).clone()
            height, width = source.shape[-2:]
            decoder = Decoder(canvas.decode, cell=canvas.cell, size=canvas.size, source=(height, width))
            reachable, _ = decoder(latent)
            found: dict[str, Force] = {}
            if settings.anchor:
                found["anchor"] = Force(SourceEnergy(source, reachable), settings.anchor)
            if settings.dino and encoder is not None:
                model = shown[number : number + 1].to(source) if shown is not None else source
                energy = DinoEnergy(
                    features_of(encoder),
                    source=model,
                    reachable=reachable if shown is None else model,
                    patch=encoder.spec.patch,
                    most_side=encoder.spec.max_side,
                )
                found["dino"] = Force(energy, settings.dino, kept=KEPT)
            decoders.append(decoder)
            forces.append(found)
    return GuidedEstimates(decoders, forces, settings, mask=mask, check=check)


def features_of(encoder: DinoEncoder) -> Callable[[Tensor, int], Tensor]:
    """Pixels [1, 3, h, w] in 0..1 and the long side at which they are encoded -> patches [1, n, m, D], differentiable."""

    def features(pixels: Tensor, side: int) -> Tensor:
        settings = EncodeSettings(side=side, layers=LAYERS)
        return encoder.features(pixels.to(encoder.backbone.device), settings=settings)[0].to(pixels.device)

    return features
