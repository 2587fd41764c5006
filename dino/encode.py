"""From pixels to a FeatureMap: resize, run the backbone, normalise the chosen layers, remember the result."""

import logging
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files.fingerprints import fingerprint_of
from ..files.pixels import check_pixels, resize
from .cache import FeatureCache, Features
from .feature_map import FeatureMap, Scales, encoded_how
from .specs import DinoSpec

log = logging.getLogger("dinotile")
MOST_SIDE = 4096  # px; attention over all patches grows with its fourth power
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(Protocol):
    """What DinoEncoder needs of a vision transformer, whoever built it."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device:
        """Where the model computes, which need not be where its weights rest."""
        ...

    def hidden(self, pixels: Tensor, blocks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Raw outputs of the given blocks (counted from 1) for normalised pixels [B, 3, H, W], sides multiples of the
        patch: per block the patches [B, h, w, D] and the CLS token [B, D]."""
        ...


@dataclass(frozen=True)
class EncodeSettings:
    """side: long side in px that the picture is encoded at, rounded to whole patches (0: the spec's default).
    layers: "last", a fraction of the depth ("2/3"), a block number from 1 ("8"), a comma list of these whose
    normalised tokens are averaged ("9,18,24"), or "mean" for the last four blocks.
    crops: 1 = whole picture; 2 = with a 2 x 2 grid of crops, which doubles the map's resolution.
    scales: how these two scales are joined: "averaged", or "apart", side by side in tokens of twice the width."""

    side: int = 0
    layers: str = "2/3"
    crops: int = 1
    scales: Scales = "averaged"

    def __post_init__(self) -> None:
        if not (isinstance(self.side, int) and 0 <= self.side <= MOST_SIDE):
            raise ValueError(f"side {self.side} must be a whole number from 0 to {MOST_SIDE}: 0 for the encoder's own")
        if self.crops not in (1, 2):
            raise ValueError(
                f"crops {self.crops} must be 1 (whole picture) or 2 (whole picture and a 2 x 2 grid of crops)"
            )
        if self.scales not in get_args(Scales):
            raise ValueError(f"scales {self.scales!r} must be one of {', '.join(get_args(Scales))}")
        if self.scales == "apart" and self.crops == 1:
            raise ValueError("scales apart with crops 1 has only one scale: set crops to 2, or scales to averaged")

    def blocks(self, spec: DinoSpec) -> tuple[int, ...]:
        """The chosen blocks of this encoder, ascending, counted from 1."""
        if self.layers.strip() == "mean":
            return tuple(range(max(1, spec.depth - 3), spec.depth + 1))
        return tuple(sorted({_block(text.strip(), spec) for text in self.layers.split(",")}))

    def canonical(self, spec: DinoSpec) -> str:
        """The layers as block numbers: "2/3" and "8" are both "8" for a ViT-B."""
        return ",".join(str(block) for block in self.blocks(spec))

    def how(self, spec: DinoSpec) -> str:
        """``encoded_how`` of what this encoder gives."""
        return encoded_how(self.canonical(spec), self.crops, self.scales)

    def width(self, spec: DinoSpec) -> int:
        """Of the features."""
        return spec.width * (2 if self.scales == "apart" else 1)

    def grid(self, height: int, width: int, spec: DinoSpec) -> tuple[int, int]:
        """Rows and columns of the patches of a picture."""
        rows, columns = (side // spec.patch * self.crops for side in self.size(height, width, spec))
        return rows, columns

    def size(self, height: int, width: int, spec: DinoSpec) -> tuple[int, int]:
        """Height and width that a picture is encoded at: proportional, whole patches, at least one."""
        side = self.side or spec.max_side
        if side < spec.patch:
            raise ValueError(
                f"side {self.side} is below one patch of {spec.name} ({spec.patch} px): "
                f"use 0 for {spec.max_side}, or at least {spec.patch}"
            )
        scale = side / max(height, width) / spec.patch
        return max(1, round(height * scale)) * spec.patch, max(1, round(width * scale)) * spec.patch


def _block(text: str, spec: DinoSpec) -> int:
    wrong = ValueError(
        f'layers "{text}" is not in {spec.name}, which has blocks 1 to {spec.depth}: '
        'use "last", a fraction such as "2/3", block numbers such as "9,18,24", or "mean"'
    )
    if text == "last":
        return spec.depth
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise wrong from None
    if "/" in text or "." in text:
        if not 0 < value <= 1:
            raise wrong
        return max(1, round(value * spec.depth))
    if value.denominator != 1 or not 1 <= value <= spec.depth:
        raise wrong
    return int(value)


def normalise(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in 0..1 -> ImageNet statistics, as every DINO expects."""
    mean, std = (pixels.new_tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


class DinoEncoder:
    """Encodes pictures with one DINO backbone; the host owns the device of `model`, this class never moves it."""

    def __init__(
        self, backbone: Backbone, spec: DinoSpec, fingerprint: str, *, cache: FeatureCache | None = None
    ) -> None:
        """cache: to share one between encoders, as its keys know the weights; None: an own one."""
        self.backbone = backbone
        self.spec = spec
        self.fingerprint = fingerprint  # 16 hex digits of the weights file
        self.cache = FeatureCache() if cache is None else cache
        self.computed = 0  # pictures that went through the backbone, cache hits excluded

    def __repr__(self) -> str:
        return f"DinoEncoder({self.spec.name}, fingerprint={self.fingerprint!r})"

    @property
    def model(self) -> nn.Module:
        return self.backbone.model

    def encode(self, pixels: Tensor, *, settings: EncodeSettings, told: bool = False) -> FeatureMap:
        """Features of pictures, one by one and cached by content, as float32 on the CPU.

        pixels: [B, 3, H, W] in 0..1, any size and aspect, on any device. told: whether the log says how many were not
        remembered; a training would say it of every picture.
        """
        check_pixels(pixels)
        before = self.computed
        # Normal tensors even inside a host's inference mode: guidance differentiates against them later.
        with torch.inference_mode(False), torch.no_grad():
            encoded = [self._encode_one(image[None], settings) for image in pixels.detach().cpu().float()]
            if told:
                count = self.computed - before
                log.info("%s: %d of %d pictures encoded, the others remembered", self.spec.name, count, len(encoded))
            return FeatureMap(
                patches=torch.stack([patches for patches, _ in encoded]),  # [B, h, w, D]
                cls=torch.stack([cls for _, cls in encoded]),  # [B, D]
                spec=self.spec.name,
                layers=settings.canonical(self.spec),
                image_size=(pixels.shape[2], pixels.shape[3]),
                crops=settings.crops,
                scales=settings.scales,
            )

    def _encode_one(self, image: Tensor, settings: EncodeSettings) -> Features:
        key = self._key(image, settings)
        known = self.cache.get(key)
        if known is not None:
            return known
        self.computed += 1
        patches, cls = self.features(image.to(self.backbone.device), settings=settings)
        features = patches[0].float().cpu(), cls[0].float().cpu()
        if not all(bool(tensor.isfinite().all()) for tensor in features):
            raise ValueError(
                f"{self.spec.name} in {next(self.model.parameters()).dtype} gave features that are not finite (stage dino): "
                f"use another weights file or float32"
            )
        self.cache.put(key, features)
        return features

    def features(self, pixels: Tensor, *, settings: EncodeSettings) -> Features:
        """Uncached, differentiable: pixels [B, 3, H, W] in 0..1 on the model's device -> [B, h, w, D], [B, D].

        D is twice the encoder's where scales stay apart: [whole | crops]; the crops' CLS is their mean.
        """
        pixels = pixels.float()
        height, width = settings.size(pixels.shape[2], pixels.shape[3], self.spec)
        blocks = settings.blocks(self.spec)
        patches, cls = self._tokens(resize(pixels, height=height, width=width), blocks)
        if settings.crops == 1:
            return patches, cls
        # Cut after the resize: the crops then fall on whole patches whatever the picture's size.
        fine = resize(pixels, height=2 * height, width=2 * width)
        crops = [[self._tokens(crop, blocks) for crop in row.split(width, dim=3)] for row in fine.split(height, dim=2)]
        rows = [torch.cat([crop for crop, _ in row], dim=2) for row in crops]
        detail = torch.cat(rows, dim=1)  # [B, 2h, 2w, D]
        whole = F.interpolate(patches.movedim(3, 1), scale_factor=2, mode="bilinear").movedim(1, 3)  # [B, 2h, 2w, D]
        if settings.scales == "averaged":
            return (whole + detail) / 2, cls
        near = torch.stack([token for row in crops for _, token in row]).mean(dim=0)  # [B, D]
        return torch.cat([whole, detail], dim=-1), torch.cat([cls, near], dim=-1)

    def _tokens(self, pixels: Tensor, blocks: tuple[int, ...]) -> Features:
        """The mean over the blocks of their tokens, each token normalised without affine."""
        hidden = self.backbone.hidden(normalise(pixels), blocks)
        width = (self.spec.width,)
        patches = torch.stack([F.layer_norm(patches.float(), width) for patches, _ in hidden]).mean(dim=0)
        cls = torch.stack([F.layer_norm(cls.float(), width) for _, cls in hidden]).mean(dim=0)
        return patches, cls

    def _key(self, image: Tensor, settings: EncodeSettings) -> str:
        """What decides the features of one picture: its pixels, the weights and how they are used."""
        dtype = next(self.model.parameters()).dtype
        how = (self.fingerprint, dtype, settings.side or self.spec.max_side, settings.blocks(self.spec))
        how += (settings.crops, settings.scales)
        return fingerprint_of([repr((tuple(image.shape), *how)).encode(), image.contiguous().numpy().data])
