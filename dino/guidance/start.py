"""From pictures and models to the guidance of one run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...files.pixels import resize
from ..encode import DinoEncoder, EncodeSettings
from .autoencoder import Autoencoder, Canvas
from .energy import KEPT, DinoEnergy
from .x0 import Anchor, Descent, Force, GuidanceSettings, GuidedEstimates

LAYERS = "2/3,last"  # detail and meaning


@torch.no_grad()
def guided_estimates(
    pixels: Tensor,
    settings: GuidanceSettings,
    *,
    canvas: Canvas,
    encoder: DinoEncoder | None = None,
    shown: Tensor | None = None,
    mask: Tensor | None = None,
    dino_mask: Tensor | None = None,
    check: Callable[[], None] = lambda: None,
) -> GuidedEstimates:
    """pixels: the sources [B, 3, h, w] in 0..1, on the device where they are compared. encoder: needed where ``settings.dino``
    is not 0. shown: pictures [B, 3, h, w] that DINO's agreement is with, instead. mask: of
    ``GuidedEstimates``. dino_mask: [1, 1, n, m] in 0..1 over the pictures, at any size: where DINO acts; None: everywhere.
    """
    autoencoders, forces, (rows, columns) = [], [], pixels.shape[-2:]
    for number, source in enumerate(pixels.float().split(1)):
        code = Autoencoder(canvas, source)
        found: dict[str, Force] = {}
        if settings.anchor:
            found["anchor"] = Anchor(source, settings.anchor)
        if settings.dino and encoder is not None:
            other = None if shown is None else shown[number : number + 1].to(source)
            reachable = code.picture(code.plain) if other is None else other
            with torch.inference_mode(False):  # inference tensors have no gradient
                energy = DinoEnergy(
                    features_of(encoder),
                    source=(source if other is None else other).clone(),
                    reachable=reachable.clone(),
                    patch=encoder.spec.patch,
                    most_side=encoder.spec.max_side,
                    keep=KEPT // len(pixels),
                )
            where = None if dino_mask is None else resize(dino_mask.to(source), height=rows, width=columns)
            found["dino"] = Descent(energy, settings.dino, where)
        autoencoders.append(code)
        forces.append(found)
    return GuidedEstimates(autoencoders, forces, settings, mask=mask, check=check)


def features_of(encoder: DinoEncoder) -> Callable[[Tensor, int], Tensor]:
    """Pixels [1, 3, h, w] in 0..1 and the long side at which they are encoded -> patches [1, n, m, D], differentiable."""

    def features(pixels: Tensor, side: int) -> Tensor:
        settings = EncodeSettings(side=side, layers=LAYERS)
        return encoder.features(pixels.to(encoder.backbone.device), settings=settings)[0].to(pixels.device)

    return features
