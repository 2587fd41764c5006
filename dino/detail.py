"""Where a picture wants new detail, and where it wants to be left as it is."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files.pixels import check_pixels, resize
from .feature_map import FeatureMap
from .likeness import centred, like_share, near_likeness, ramp, smoothed, standing_out

CELL = 16  # px of the picture that are measured together
MOST = 128  # of them on a side
FULL = 0.9  # and more is all texture


@dataclass(frozen=True)
class DetailRule:
    """How ``detail_mask`` weighs what it measures.

    low, high: its values where nothing and where all wants new detail, 0 to 1. contrast: standard deviation of the luminance
    (0 to 1) in a cell of 16 px from which on it is all texture. text, objects: how much writing, and small objects, are spared,
    0 to 1. smoothing: a radius in cells, 0 is off.
    """

    low: float = 0.2
    high: float = 1.0
    contrast: float = 0.06
    text: float = 1.0
    objects: float = 1.0
    smoothing: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            least, most = {"contrast": (0.001, 1), "smoothing": (0, 16)}.get(field.name, (0, 1))
            value = getattr(self, field.name)
            if not least <= value <= most:  # also refuses NaN
                raise ValueError(f"{field.name} {value} must be from {least} to {most}: usually {field.default}")
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}: exchange them, or invert the mask")


def detail_mask(features: FeatureMap, pixels: Tensor | None = None, *, rule: DetailRule | None = None) -> Tensor:
    """[B, h, w] in ``low``..``high``, over the whole picture: low on flat ground, writing and small objects, high on texture.

    ``low + (high - low) * texture * (1 - text * writing) * (1 - objects * object)``, each term in 0..1 and the product averaged
    over neighbours that are alike to DINO (``smoothed``); .9 and more counts as 1, as what is a little lower misses the first
    step of a sampling. h, w: DINO's patches, or the picture's cells where they are finer. pixels: the picture [B, 3, H, W] in
    0..1.

    * texture: the ``spread`` of the luminance in a cell over ``contrast``. Without pixels it is how little a patch is like its
      neighbours to DINO, which also finds the outlines of flat things.
    * writing: see ``writing``; needs pixels.
    * object: see ``small_objects``. A face in a crowd or in a landscape is one. Nothing here knows what a face is: a face that
      fills the picture is texture, and a stone on a beach is an object. Multiply by a mask where it must be sure.

    Raises ValueError for pixels that are not those of the features.
    """
    rule = rule or DetailRule()
    units = centred(features.patches)
    detail, thing = 1 - ramp(near_likeness(units), 0.4, 0.9), small_objects(features.patches, units)
    if pixels is not None:
        grey = luminance(pixels, features)
        cells = (spread(grey) / rule.contrast).clamp(0, 1) * (1 - rule.text * writing(grey))
        height, width = (max(sides) for sides in zip(cells.shape[1:], units.shape[1:3], strict=True))
        detail, thing = (_at(it[:, None], height, width)[:, 0] for it in (cells, thing))
        units = F.normalize(_at(units.movedim(3, 1), height, width), dim=1).movedim(1, 3)
    detail = smoothed(detail * (1 - rule.objects * thing), units, radius=rule.smoothing)
    return rule.low + (rule.high - rule.low) * ramp(detail, 0.0, FULL)


def small_objects(patches: Tensor, units: Tensor) -> Tensor:
    """How much each patch belongs to a small thing of one kind, unlike the rest: [B, h, w] in 0..1.

    units: the ``centred`` patches. Three things together: patches beside it are like it (mean cosine of the three most alike: 0
    at .3, 1 at .6); little of the picture is (``like_share``: 1 up to 2 %, 0 from 8 % on); and it stands out from the picture's
    mean (0 where it does as patches do on average, 1 from 1.3 times that on), without which a meadow would be all objects.
    """
    beside, share = near_likeness(units, most=3), like_share(units)
    return ramp(beside, 0.3, 0.6) * (1 - ramp(share, 0.02, 0.08)) * ramp(standing_out(patches), 1.0, 1.3)


def luminance(pixels: Tensor, features: FeatureMap) -> Tensor:
    """[B, 1, H, W] of the picture that the features are of, in whole cells; shrunk where it has more than 128 on a side."""
    check_pixels(pixels)
    batch, (rows, columns) = len(features.patches), features.image_size
    height, width = pixels.shape[2:]
    if len(pixels) != batch or abs(rows * width - columns * height) > 0.02 * rows * width:
        raise ValueError(
            f"the image holds {len(pixels)} of {width} x {height} px, the features {batch} of {columns} x {rows} px: give the "
            "picture that they were extracted from"
        )
    scale = min(1.0, MOST * CELL / max(height, width)) / CELL
    height, width = (max(1, round(side * scale)) * CELL for side in (height, width))
    return resize(pixels.detach().cpu().float().mean(dim=1, keepdim=True), height=height, width=width)


def spread(grey: Tensor) -> Tensor:
    """Standard deviation in each cell from the mean around each pixel, so that a slope of light has none: [B, h, w]."""
    half = CELL // 2
    around = F.avg_pool2d(F.pad(grey, (half,) * 4, mode="replicate"), 2 * half + 1, stride=1)
    return F.avg_pool2d((grey - around).square(), CELL).sqrt().squeeze(1)


def writing(grey: Tensor) -> Tensor:
    """How much each cell and the eight around it look like writing, or line art: [B, h, w] in 0..1.

    Of the pixels above and below the local mean, two tones: they are far apart (0 at .2 of the luminance, 1 at .35); one of them,
    the paper, is even (its standard deviation over the tones' distance: 1 up to .1, 0 from .2 on; grass and gravel have .3); and
    there is much border between them, as strokes have (its length per area, the mean gradient over the tones' distance: 0 at .06
    per px, 1 at .1; letters of 48 px have .11, of 12 px .4, one straight edge .02). Small things on an even ground are taken for
    it, such as coins on a table; letters that are blurred until paper and ink run together are not.
    """
    local = F.interpolate(_around(F.avg_pool2d(grey, CELL)), scale_factor=CELL, mode="bilinear")
    above = (grey > local).float()
    down, right = F.pad(grey, (0, 1, 0, 1), mode="replicate").diff(dim=2)[..., :-1], grey.diff(dim=3)
    gradient = (down.square() + F.pad(right, (0, 1)).square()).sqrt()
    share, border = (_around(F.avg_pool2d(it, CELL)) for it in (above, gradient))
    means, spreads = zip(*(_tone(grey, part) for part in (above, 1 - above)), strict=True)
    tones = (means[0] - means[1]) * (share > 0) * (share < 1)
    even, border = (it / tones.clamp(min=1e-3) for it in (torch.minimum(*spreads), border))
    return (ramp(tones, 0.2, 0.35) * (1 - ramp(even, 0.1, 0.2)) * ramp(border, 0.06, 0.1)).squeeze(1)


def _tone(grey: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a part of the pixels, over 3 x 3 cells."""
    share, mean, square = (_around(F.avg_pool2d(it, CELL)) for it in (part, part * grey, part * grey.square()))
    mean = mean / share.clamp(min=1e-6)
    return mean, (square / share.clamp(min=1e-6) - mean.square()).clamp(min=0).sqrt()


def _around(patches: Tensor) -> Tensor:
    """Means over 3 x 3 cells [B, 1, h, w]."""
    return F.avg_pool2d(F.pad(patches, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _at(values: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(values, size=(height, width), mode="bilinear")
