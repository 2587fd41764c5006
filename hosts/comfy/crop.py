"""Entries of ``model_conds`` that the host does not crop itself, cropped to a tile. Plans are in latent cells."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ...tiling.plan import TilePlan


def crop_entries(entries: dict[str, Any], area: tuple[int, int, int, int], plan: TilePlan) -> dict[str, Any]:
    """Crop those entries of ``model_conds`` that the host does not crop itself: reference latents, attention masks."""
    cropped = dict(entries)
    references, mask = entries.get("ref_latents"), entries.get("attention_mask")
    if references is not None:
        cropped["ref_latents"] = _with(references, [crop_reference(one, area, plan) for one in references.cond])
    if mask is not None:
        cropped["attention_mask"] = _with(mask, crop_attention_mask(mask.cond, area, plan))
    return cropped


def crop_reference(latent: Tensor, area: tuple[int, int, int, int], plan: TilePlan) -> Tensor:
    """The tile's part of a reference latent [B, C, h, w] that shows the whole canvas at any scale.

    A reference of another aspect ratio is another picture and stays whole.
    """
    rows, columns = latent.shape[-2:]
    if abs(rows * plan.width - columns * plan.height) > 0.02 * rows * plan.width:
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


def crop_attention_mask(mask: Tensor, area: tuple[int, int, int, int], plan: TilePlan) -> Tensor:
    """The rows and columns [.., text + tile tokens] of an attention mask over [text | canvas tokens]."""
    height, width, top, left = (-(-n // plan.grid) for n in area)
    rows, columns = (-(-n // plan.grid) for n in (plan.height, plan.width))
    text = mask.shape[-1] - rows * columns
    grid = torch.arange(rows * columns, device=mask.device).view(rows, columns) + text
    tile = grid[top : top + height, left : left + width].flatten()
    keep = torch.cat([torch.arange(text, device=mask.device), tile])
    return mask.index_select(-1, keep).index_select(-2, keep)


def _with(entry: Any, value: Any) -> Any:
    other = copy.copy(entry)
    other.cond = value
    return other
