"""Pictures of features: principal components as colours, regions with their numbers."""

import colorsys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .feature_map import FeatureMap
from .regions import Regions


def pca_picture(features: FeatureMap, *, height: int, width: int, like: FeatureMap | None = None) -> Tensor:
    """The three strongest principal components of the patches as RGB, [B, height, width, 3] in 0..1.

    Colours are shared by the batch and the same in every run: each component's largest weight counts as positive. like: other
    features of the encoder, whose components and range are taken; ValueError where they are of another one.
    """
    if like is not None and (like.spec, like.how) != (features.spec, features.how):
        raise ValueError(
            f"like is of {like.spec} layers {like.how}, the features are of {features.spec} layers {features.how}: connect "
            "features of one encoder, or leave like out"
        )
    shown = (features if like is None else like).patches.double().flatten(0, 2)  # [n, D]
    mean = shown.mean(dim=0)
    centred = shown - mean
    _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes[:, -3:].flip(1)  # [D, 3]
    strongest = axes.abs().argmax(dim=0, keepdim=True)
    axes = axes * axes.gather(0, strongest).sign()
    low, high = ((centred @ axes).quantile(share, dim=0) for share in (0.02, 0.98))
    spread = high - low
    flat = spread <= 1e-6 * centred.abs().max()  # no structure left: grey, not amplified rounding
    values = (features.patches.double().flatten(0, 2) - mean) @ axes  # [B * h * w, 3]
    values = torch.where(flat, 0.5, (values - low) / spread.where(~flat, 1))
    colours = values.clamp(0, 1).float().view(*features.patches.shape[:3], 3)
    out = F.interpolate(colours.movedim(3, 1), size=(height, width), mode="bilinear")
    return out.movedim(1, 3)  # [B, height, width, 3]


def regions_picture(regions: Regions, *, height: int, width: int, image: Tensor | None = None) -> Tensor:
    """Each region in its own colour, with its number, from 1, about its middle: [height, width, 3] in 0..1.

    image: [height, width, 3], which then shows through.
    """
    golden = (5**0.5 - 1) / 2  # of the circle of hues: neighbours in number differ most
    colours = torch.tensor([colorsys.hsv_to_rgb(number * golden % 1, 0.6, 0.9) for number in range(regions.count)])
    drawn = colours[regions.labels(height, width)]
    if image is not None:
        drawn = (drawn + image.cpu().float().clamp(0, 1)) / 2
    picture = Image.fromarray((drawn * 255).round().byte().numpy())
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(11, min(height, width) // 20))
    rows, columns = regions.likeness.shape[1:]
    own = regions.masks(rows, columns)[:, None]
    wide = min(rows, columns) // 4 * 2 + 1
    inside = own * (1 + F.avg_pool2d(own, wide, stride=1, padding=wide // 2))  # largest where most around is of it
    for number, place in enumerate(inside.flatten(1).argmax(dim=1).tolist(), start=1):
        middle = ((place % columns + 0.5) * width / columns, (place // columns + 0.5) * height / rows)
        draw.text(middle, str(number), font=font, anchor="mm", fill=(255, 255, 255), stroke_width=2, stroke_fill=0)
    return torch.from_numpy(np.asarray(picture).copy()).float() / 255
