"""Entries of ``model_conds`` that the host does not crop itself, cropped to a tile. Plans are in latent cells."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ...tiling.plan import TilePlan

Area = tuple[int, int, int, int]  # height, width, top, left
STRETCHED = {  # what a model stretches to whatever it is given, though it shows the whole picture
    "lq_latent": "the latent of PiD Conditioning",
    "effnet": "the prior of a Stable Cascade stage B",
}
LAID_OUT = "vinput_mask"  # which of HiDream-O1's tokens are the picture's; made of the whole, with the place of each


def crop_entries(
    entries: dict[str, Any],
    area: Area,
    plan: TilePlan,
    *,
    device: torch.device,
    mask_grid: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Crop those entries of ``model_conds`` that the host does not crop itself: reference latents, attention masks, and tensors
    of the canvas's own cells, such as a mask of what is redrawn.

    mask_grid: see ``crop_attention_mask``. None where the mask is of the text alone, which stays.
    """
    cropped = {name: crop_cells(entry, area, plan) for name, entry in entries.items()}
    references = entries.get("ref_latents")
    mask = None if mask_grid is None else entries.get("attention_mask")
    if references is not None:
        cropped["ref_latents"] = with_cond(references, [crop_reference(one, area, plan) for one in references.cond])
    if mask is not None:
        cropped["attention_mask"] = with_cond(
            mask, crop_attention_mask(mask.cond.to(device), area, plan, grid=mask_grid)
        )
    return cropped


def check_entries(entries: dict[str, Any]) -> None:
    """ValueError for entries of which a tile's part cannot be cut."""
    for name, what in STRETCHED.items():
        if name in entries and bool(entries[name].cond.any()):
            raise ValueError(f"{what} cannot be cut into tiles: sample it without Tile Model")
    if LAID_OUT in entries:
        raise ValueError(
            "HiDream-O1 lays the whole picture out beside its text, which cannot be cut into tiles of one canvas: use Sequential "
            "Tiled Upscale, or sample it without tiles"
        )


def crop_cells(entry: Any, area: Area, plan: TilePlan) -> Any:
    """The tile's part of an entry whose tensor [B, .., h, w] has the canvas's cells, which the host would crop by itself were
    it one of noise's shape; any other entry as it is."""
    cells = getattr(entry, "cond", None)
    if not isinstance(cells, Tensor) or any(kind.__name__ == "CONDNoiseShape" for kind in type(entry).__mro__):
        return entry
    if cells.ndim < 4 or tuple(cells.shape[-2:]) != (plan.height, plan.width):
        return entry
    height, width, top, left = area
    return with_cond(entry, cells[..., top : top + height, left : left + width])


def crop_reference(latent: Tensor, area: Area, plan: TilePlan) -> Tensor:
    """The tile's part of a reference latent [B, C, h, w] or [B, C, n, h, w] that shows the whole canvas at any scale.

    A reference of another aspect ratio is another picture and stays whole; one of the picture alone has that of a canvas that
    lacks less than a token.
    """
    rows, columns = latent.shape[-2:]
    lying = rows * (plan.width - plan.grid + 1), (columns + 1) * plan.height
    upright = columns * (plan.height - plan.grid + 1), (rows + 1) * plan.width
    if any(0.98 * least > most for least, most in (lying, upright)):
        return latent
    height, width, top, left = area
    first_row, last_row = _span(top, height, side=plan.height, cells=rows, patch=plan.grid)
    first_column, last_column = _span(left, width, side=plan.width, cells=columns, patch=plan.grid)
    return latent[..., first_row:last_row, first_column:last_column]


def _span(start: int, length: int, *, side: int, cells: int, patch: int) -> tuple[int, int]:
    """Scale start and length from ``side`` to ``cells``; the same length for every tile, of whole tokens."""
    if cells == side:
        return start, start + length
    size = min(cells, max(patch, round(length * cells / side / patch) * patch))
    first = min(round(start * cells / side / patch) * patch, cells - size)
    return first, first + size


def crop_attention_mask(mask: Tensor, area: Area, plan: TilePlan, *, grid: tuple[int, int] | None = None) -> Tensor:
    """The rows and columns [.., text + tile tokens] of an attention mask over [text | grid rows x grid columns].

    grid: what the mask holds for the canvas, by default its tokens. A coarser one (Redux has 1 x 1) is stretched as the
    host stretches it, bilinear, but for the tile alone: a mask of the canvas would hold its tokens squared.
    """
    height, width = (-(-side // plan.grid) for side in area[:2])
    top, left = (first // plan.grid for first in area[2:])  # of an area also inside a token
    canvas = -(-plan.height // plan.grid), -(-plan.width // plan.grid)
    grid = grid or canvas
    if mask.dtype == torch.bool and grid != canvas:
        mask = torch.zeros_like(mask, dtype=torch.float16).masked_fill(~mask, float("-inf"))
    for dim in (-1, -2):
        text = mask.shape[dim] - grid[0] * grid[1]
        words, image = mask.split([text, grid[0] * grid[1]], dim)
        image = _stretch(image.unflatten(dim, grid), dim - 1, top, height, side=canvas[0])
        image = _stretch(image, dim, left, width, side=canvas[1])
        mask = torch.cat([words, image.flatten(dim - 1, dim)], dim)
    return mask


def _stretch(values: Tensor, dim: int, start: int, length: int, *, side: int) -> Tensor:
    """Entries start .. start + length of a dimension that is stretched linearly to ``side``; -inf stays -inf."""
    count = values.shape[dim]
    at = ((torch.arange(start, start + length, device=values.device) + 0.5) * count / side - 0.5).clamp(min=0)
    low = at.long()
    high = (low + 1).clamp(max=count - 1)
    first = values.index_select(dim, low)
    if bool((at == low).all()) or count == 1:
        return first
    second = values.index_select(dim, high)
    share = (at - low).to(values.dtype).view(-1, *[1] * (-dim - 1))
    return torch.where((first == second) | (share == 0), first, first * (1 - share) + second * share)


def with_cond(entry: Any, value: Any) -> Any:
    """A copy of an entry of ``model_conds`` with another value."""
    other = copy.copy(entry)
    other.cond = value
    return other
