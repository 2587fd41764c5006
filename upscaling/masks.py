"""Where in a picture DINO acts, and where it is redrawn at all."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..files.kinds import MEGAPIXELS
from ..files.paths import expanded, path_of
from ..files.pictures import load_picture, picture_of
from ..files.pixels import proportional
from ..flux_patch.latents import Latents
from ..tiling.canvas import pad_to_grid

Source = str | os.PathLike[str] | Image.Image


@dataclass(frozen=True, eq=False)
class Masks:
    """dino: 1 where DINO acts, 0 where it does not. denoise: 1 where the picture is redrawn, 0 where it stays. Both
    [1, 1, h, w] over the whole picture, at any resolution, or None for all of it; denoise may have one for each picture."""

    dino: Tensor | None = None
    denoise: Tensor | None = None

    def __repr__(self) -> str:
        shapes = (None if mask is None else list(mask.shape) for mask in (self.dino, self.denoise))
        return "Masks(dino {}, denoise {})".format(*shapes)

    def of(self, picture: int) -> Masks:
        """Those of one picture of a batch."""
        many = self.denoise is not None and len(self.denoise) > 1
        return replace(self, denoise=self.denoise[picture : picture + 1]) if many and self.denoise is not None else self

    def check(self, height: int, width: int, *, pictures: int = 1, guided: bool = True) -> None:
        """Raise ValueError where a mask has other proportions than a picture of that height and width, where masks are not one
        or as many as pictures, and where DINO, which one is for, does not guide."""
        if self.dino is not None and not guided:
            raise ValueError(
                "a DINO mask was given where DINO does not act: give a DINO model, and an adapter or a guide above 0, or "
                "leave the mask out"
            )
        for name, mask in (("DINO", self.dino), ("denoise", self.denoise)):
            if mask is not None:
                check_mask(mask, height, width, name=name)
        if self.dino is not None and len(self.dino) != 1:
            raise ValueError(f"there are {len(self.dino)} DINO masks, needed is one for all pictures: give one")
        if self.denoise is not None and len(self.denoise) not in (1, pictures):
            raise ValueError(
                f"there are {len(self.denoise)} denoise masks and {pictures} pictures: give one mask for all, or as many as "
                "pictures"
            )


EVERYWHERE = Masks()


def load_masks(
    *, dino_mask: Source | None = None, denoise_mask: Source | None = None, max_megapixels: float = MEGAPIXELS
) -> Masks:
    """Of files or PIL images; the keywords are options of an upscaling."""
    sources = (dino_mask, denoise_mask)
    return Masks(*(None if it is None else load_mask(it, max_megapixels=max_megapixels) for it in sources))


def load_mask(source: Source, *, max_megapixels: float = MEGAPIXELS) -> Tensor:
    """A picture as a mask [1, 1, h, w]: white is 1, black and transparent are 0. Raises ValueError."""
    if isinstance(source, Image.Image):
        picture = picture_of(source)
    else:
        path = path_of(source, what="the mask", do="give that or a PIL image, and tensors to Masks")
        picture = load_picture(expanded(path), max_megapixels=max_megapixels)
    grey = picture.pixels.mean(1, keepdim=True)
    return grey if picture.alpha is None else grey * picture.alpha


def check_mask(mask: Tensor, height: int, width: int, *, name: str) -> None:
    """Refuse what is not [B, 1, h, w] in 0..1, or has other proportions than a picture of that height and width."""
    shape = list(mask.shape)
    if mask.ndim != 4 or shape[1] != 1 or 0 in shape:
        raise ValueError(f"the {name} mask has shape {shape}, needed is [B, 1, h, w]: pass one channel")
    low, high = (float(value) for value in mask.aminmax())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise ValueError(f"the {name} mask lies in {low:g}..{high:g}, needed is 0..1: divide 8-bit masks by 255")
    rows, columns = shape[2:]
    if not proportional((rows, columns), (height, width)):
        raise ValueError(
            f"the {name} mask is {columns} x {rows} px, the picture {width} x {height}: give a mask of the same proportions"
        )


def in_cells(mask: Tensor, *, height: int, width: int, latents: Latents) -> Tensor:
    """A mask over a picture of that height and width in px as its mean in each latent cell of the padded canvas."""
    mask = scaled(mask, height=height, width=width)
    return F.avg_pool2d(pad_to_grid(mask, grid=latents.token), latents.cell).clamp(0, 1)  # [B, 1, h, w]


def scaled(mask: Tensor, *, height: int, width: int) -> Tensor:
    """A mask [B, 1, h, w] at that size, between its least and its largest value."""
    return F.interpolate(mask.float(), size=(height, width), mode="bilinear", antialias=True)


def flat(mask: Tensor | None) -> Tensor | None:
    """As ``Strength`` takes it, [h, w]."""
    return None if mask is None else mask.reshape(mask.shape[-2:]).to("cpu", torch.float32)
