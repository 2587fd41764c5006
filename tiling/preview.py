"""Pictures of a tile plan, and of a result that is not finished."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..files.pixels import resize
from ..files.progress import Progress, counted
from .plan import TilePlan

SHOWN = 512  # px of the longer side, at most


class Filling:
    """A picture of a result of that height and width that fills in from its top; what is not there yet is the source
    [1, 3, h, w]'s, at half its light."""

    def __init__(self, source: Tensor, size: tuple[int, int]) -> None:
        self.height, self.done = size[0], 0
        height, width = (max(1, side * SHOWN // max(*size, SHOWN)) for side in size)
        self.pixels = resize(source.float().cpu(), height=height, width=width) / 2

    def put(self, rows: Tensor) -> None:
        """The next rows of the result, [1, 3, n, W]."""
        shown, after = self.pixels.shape[-2], self.done + rows.shape[-2]
        top, bottom = (end * shown // self.height for end in (self.done, after))
        if bottom > top:
            self.pixels[..., top:bottom, :] = resize(rows, height=bottom - top, width=self.pixels.shape[-1])
        self.done = after

    def draw(self) -> Image.Image:
        return Image.fromarray((self.pixels[0].movedim(0, -1).clamp(0, 1) * 255).round().byte().numpy())


def draw_plan(image: Tensor, plan: TilePlan, *, progress: Progress | None = None) -> Tensor:
    """Draw every tile's outline and number on a picture of the canvas; overlaps are tinted.

    image: [H, W, 3] in 0..1, of any size with the canvas' aspect. Returns a new [H, W, 3].
    """
    height, width = image.shape[:2]
    scale_y, scale_x = height / plan.height, width / plan.width
    cover = np.zeros((height, width), dtype=np.int32)
    boxes = []
    for box in plan.boxes:
        top, left = round(box.top * scale_y), round(box.left * scale_x)
        bottom, right = round(box.bottom * scale_y), round(box.right * scale_x)
        cover[top:bottom, left:right] += 1
        boxes.append((left, top, max(left, right - 1), max(top, bottom - 1)))
    tint = torch.from_numpy((cover > 1).astype(np.float32))[..., None] * 0.35
    shaded = image.cpu().float() * (1 - tint) + torch.tensor([1.0, 0.6, 0.0]) * tint
    picture = Image.fromarray((shaded.clamp(0, 1) * 255).round().byte().numpy())
    draw = ImageDraw.Draw(picture)
    line = max(1, min(height, width) // 300)
    font = ImageFont.load_default(max(11, min(height, width) // 40))
    for number, (left, top, right, bottom) in enumerate(counted(boxes, "draw", progress)):
        inset = line * (number % 3)  # neighbours' borders stay apart
        corners = (left + inset, top + inset, max(left + inset, right - inset), max(top + inset, bottom - inset))
        draw.rectangle(corners, outline=(255, 64, 64), width=line)
        place = (left + 4 * line, top + 3 * line)
        draw.text(place, str(number + 1), font=font, fill=(255, 255, 255), stroke_width=line, stroke_fill=0)
    return torch.from_numpy(np.asarray(picture).copy()).float() / 255


def describe_plan(plan: TilePlan) -> str:
    """One line for people: sizes, tiles, work."""
    return (
        f"{plan.width} x {plan.height} px: {len(plan.lefts)} x {len(plan.tops)} = {plan.count} tiles of "
        f"{plan.tile_width} x {plan.tile_height} px, overlap at least {plan.overlap} px, sampled/output pixels {plan.work:.2f}"
    )
