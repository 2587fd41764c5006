"""How far a picture is from the truth to a network that does not guide: a distance in the form of LPIPS (arXiv 1801.03924)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dino.encode import DinoEncoder
from ...dino.layouts import detect_spec, plain_name
from ...dino.load import load_dino
from ...files.paths import expanded
from ...files.weights import read_shapes, weight_files
from ..core.perceptual import DinoMaps, Maps, distance, load_vgg, units

# Cosine of the patch kernels from which on two DINO files hold one encoder: dtypes and fine-tuning leave more
SAME = 0.9
KERNEL = "embeddings.patch_embeddings.weight"


@dataclass(frozen=True, eq=False)
class Judge:
    """maps: of pictures [1, 3, H, W] in 0..1 on ``device``, features [1, h, w, C] at several depths. parameters: numbers."""

    maps: Maps
    device: torch.device
    parameters: int

    @torch.no_grad()
    def distances(self, pictures: Sequence[Tensor], truth: Tensor) -> list[float]:
        """Of each picture [3, H, W] to the truth, all of one size; 0 for the same.

        LPIPS without its learned heads: features of unit length at every place, squared differences summed over channels,
        averaged over places, summed over depths.
        """
        true = self._units(truth)
        return [float(distance(self._units(each), true)) for each in pictures]

    def _units(self, pixels: Tensor) -> list[Tensor]:
        seen = pixels[None].to(self.device, torch.float32).clamp(0, 1)
        return units(self.maps, seen)


def load_judge(path: str, *, guide: Path, device: torch.device) -> Judge:
    """From a VGG's or a DINO's .safetensors file or folder; guide: the DINO file or folder that must not be its own judge.

    A VGG is one of plain 3 x 3 convolutions, as torchvision and timm name them; there LPIPS looks as well. ValueError, one
    sentence, for anything else.
    """
    place = expanded(path)
    try:
        vgg = load_vgg(place, device=device)
        if vgg is not None:
            return Judge(vgg, device, sum(map(torch.numel, vgg.weights + vgg.biases)))
    except ValueError as error:
        raise ValueError(f"output.judge: {error}") from None
    try:
        encoder = load_dino(place, device=device)
    except ValueError as error:
        raise ValueError(f"output.judge: {error}, or a VGG without batch normalisation") from None
    if _is_of(encoder, guide):
        raise ValueError(
            f"output.judge {path} is the DINO that guides, {guide.name}, and nobody is their own judge: name a VGG or another "
            "DINO, or leave it out"
        )
    return Judge(DinoMaps(encoder), device, sum(map(torch.numel, encoder.model.parameters())))


def _is_of(encoder: DinoEncoder, path: Path) -> bool:
    """Whether the DINO file holds this encoder, in whatever layout and dtype."""
    shapes = {name: shape for file in weight_files(path) for name, shape in read_shapes(file)[0].items()}
    if detect_spec(shapes) != encoder.spec:
        return False
    mine, theirs = (_kernel(each).flatten() for each in (encoder, load_dino(path)))
    return float(F.cosine_similarity(mine, theirs, dim=0)) > SAME


def _kernel(encoder: DinoEncoder) -> Tensor:
    named = {plain_name(name): tensor for name, tensor in encoder.model.state_dict().items()}
    return named[KERNEL].cpu()
