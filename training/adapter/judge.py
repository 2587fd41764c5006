"""How far a picture is from the truth to a network that does not guide: a distance in the form of LPIPS (arXiv 1801.03924)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dino.encode import MOST_SIDE, DinoEncoder, EncodeSettings, normalise
from ...dino.layouts import detect_spec, plain_name
from ...dino.load import load_dino
from ...files.paths import expanded
from ...files.pixels import resize
from ...files.weights import Shapes, check_floating, read_shapes, read_weights, weight_files

DEPTHS = 4  # of DINO that are compared
STAGES = 5  # of a VGG, at most; half the size from one to the next
# Cosine of the patch kernels from which on two DINO files hold one encoder: dtypes and fine-tuning leave more
SAME = 0.9
KERNEL = "embeddings.patch_embeddings.weight"


@dataclass(frozen=True, eq=False)
class Judge:
    """maps: of pictures [1, 3, H, W] in 0..1 on ``device``, features [1, h, w, C] at several depths. parameters: numbers."""

    maps: Callable[[Tensor], Sequence[Tensor]]
    device: torch.device
    parameters: int

    @torch.no_grad()
    def distances(self, pictures: Sequence[Tensor], truth: Tensor) -> list[float]:
        """Of each picture [3, H, W] to the truth, all of one size; 0 for the same.

        LPIPS without its learned heads: features of unit length at every place, squared differences summed over channels,
        averaged over places, summed over depths.
        """
        true = self._units(truth)
        return [
            sum(
                float((one - other).square().sum(-1).mean()) for one, other in zip(self._units(each), true, strict=True)
            )
            for each in pictures
        ]

    def _units(self, pixels: Tensor) -> list[Tensor]:
        seen = pixels[None].to(self.device, torch.float32).clamp(0, 1)
        return [F.normalize(features, dim=-1) for features in self.maps(seen)]


def load_judge(path: str, *, guide: Path, device: torch.device) -> Judge:
    """From a VGG's or a DINO's .safetensors file or folder; guide: the DINO file or folder that must not be its own judge.

    A VGG is one of plain 3 x 3 convolutions, as torchvision and timm name them; there LPIPS looks as well. ValueError, one
    sentence, for anything else.
    """
    place = expanded(path)
    try:
        files = weight_files(place)
        shapes = {name: shape for file in files for name, shape in read_shapes(file)[0].items()}
        if is_vgg(shapes):
            weights = {name: tensor for file in files for name, tensor in read_weights(file)[0].items()}
            check_floating(weights, name=place.name)
            if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
                raise ValueError(
                    f"{place.name} holds numbers that are not finite, needed are finite weights: get the full file"
                )
            vgg = Vgg.of(weights, device=device)
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


@dataclass(frozen=True, eq=False)
class DinoMaps:
    """Patches after each quarter of the blocks, normalised without affine, of a picture at its own size."""

    encoder: DinoEncoder

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
