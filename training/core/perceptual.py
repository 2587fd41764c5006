"""Networks that see pictures as features at several depths: a VGG or a DINO, for distances in the form of LPIPS."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dino.encode import MOST_SIDE, DinoEncoder, EncodeSettings, normalise
from ...dino.load import load_dino
from ...files.fingerprints import weights_fingerprint
from ...files.pixels import resize
from ...files.weights import Shapes, check_finite, check_floating, read_shapes, read_weights, weight_files

DEPTHS = 4  # of DINO that are compared
STAGES = 5  # of a VGG, at most; half the size from one to the next


class Maps(Protocol):
    """Of pictures [B, 3, H, W] in 0..1 features [B, h, w, C] at several depths. fingerprint: of the weights, 16 hex digits."""

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, pixels: Tensor) -> Sequence[Tensor]: ...


def load_vgg(place: Path, *, device: torch.device) -> Vgg | None:
    """From a .safetensors file or folder, None where it is no VGG; ValueError for a file that cannot be read, or is damaged."""
    files = weight_files(place)
    shapes = {name: shape for file in files for name, shape in read_shapes(file)[0].items()}
    if not is_vgg(shapes):
        return None
    weights = {name: tensor for file in files for name, tensor in read_weights(file)[0].items()}
    check_floating(weights, name=place.name)
    check_finite(weights, name=place.name)
    return Vgg.of(weights, device=device)


def load_maps(place: Path, *, device: torch.device) -> Maps:
    """Of a VGG's or a DINO's file or folder; ValueError, one sentence, for anything else."""
    vgg = load_vgg(place, device=device)
    if vgg is not None:
        return vgg
    try:
        encoder = load_dino(place, device=device)
    except ValueError as error:
        raise ValueError(f"{error}, or a VGG without batch normalisation") from None
    encoder.model.requires_grad_(False)
    return DinoMaps(encoder)


def units(maps: Maps, pixels: Tensor) -> list[Tensor]:
    """Features of unit length at every place and depth: [B, h, w, C] each."""
    return [F.normalize(features, dim=-1) for features in maps(pixels)]


def distance(ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """LPIPS (arXiv 1801.03924) without its learned heads, of ``units``: squared differences summed over channels, averaged over
    places, summed over depths; [B], 0 for the same."""
    apart = [(one - other).square().sum(-1).mean((1, 2)) for one, other in zip(ones, others, strict=True)]
    return torch.stack(apart).sum(0)


@dataclass(frozen=True, eq=False)
class DinoMaps:
    """Patches after each quarter of the blocks, normalised without affine, of a picture at its own size."""

    encoder: DinoEncoder

    @property
    def fingerprint(self) -> str:
        return self.encoder.fingerprint

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        spec = self.encoder.spec
        height, width = pixels.shape[2:]
        settings = EncodeSettings(side=min(max(height, width, spec.patch), MOST_SIDE))
        height, width = settings.size(height, width, spec)
        blocks = sorted({max(1, spec.depth * number // DEPTHS) for number in range(1, DEPTHS + 1)})
        seen = normalise(resize(pixels, height=height, width=width))
        hidden = self.encoder.backbone.hidden(seen, tuple(blocks))
        return [F.layer_norm(patches.float(), (spec.width,)) for patches, _ in hidden]  # [1, h, w, D] each


@dataclass(frozen=True, eq=False)
class Vgg:
    """Of a VGG, its convolutions in order. ends: those after which the picture is halved, and the last one."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    ends: frozenset[int]

    @property
    def fingerprint(self) -> str:
        return weights_fingerprint({str(number): tensor for number, tensor in enumerate(self.weights + self.biases)})

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], *, device: torch.device) -> Vgg:
        numbers = _numbers(weights)
        kernels, biases = (
            tuple(weights[f"features.{number}.{part}"].to(device, torch.float32) for number in numbers)
            for part in ("weight", "bias")
        )
        return cls(kernels, biases, frozenset(i for i, n in enumerate(numbers) if n + 2 not in numbers))

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """After the last ReLU of each stage, as in LPIPS."""
        x, found = normalise(pixels), []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = F.conv2d(x, weight, bias, padding=1).relu()
            if i in self.ends:
                found.append(x.movedim(1, 3))  # [1, h, w, C]
                x = F.max_pool2d(x, 2, ceil_mode=min(x.shape[2:]) == 1) if i + 1 < len(self.weights) else x
        return found


def is_vgg(shapes: Shapes) -> bool:
    """Whether the tensors are those of a VGG: convolutions and ReLUs in turn, with a pooling after each stage."""
    numbers, channels = _numbers(shapes), 3
    steps = [after - before for before, after in zip(numbers, numbers[1:], strict=False)]
    for number in numbers:
        kernel = tuple(shapes[f"features.{number}.weight"])
        if kernel[1:] != (channels, 3, 3) or tuple(shapes.get(f"features.{number}.bias", ())) != kernel[:1]:
            return False
        channels = kernel[0]
    return bool(numbers) and numbers[0] == 0 and set(steps) <= {2, 3} and steps.count(3) < STAGES


def _numbers(names: Mapping[str, object]) -> list[int]:
    found = (re.fullmatch(r"features\.(\d{1,3})\.weight", name) for name in names)
    return sorted(int(match[1]) for match in found if match)
