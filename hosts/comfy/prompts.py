"""Several prompts for one picture, each for its region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .images import masks


def prompt_by_region(regions: Tensor, prompts: Sequence[list | None], *, fallback: list) -> list:
    """A CONDITIONING of the host's masked ones (what *Conditioning (Set Mask)* makes): each prompt for its region, the fallback
    for the rest of the picture. *Tile Model* leaves out of a tile what has no say there.

    regions: a MASK [k, H, W]. prompts: by the regions' order, None where there is none. Raises ValueError for a prompt beyond
    the last region, and for masks that are not finite.
    """
    weights = masks(regions)[:, 0]  # [k, H, W]
    if not bool(weights.isfinite().all()):
        raise ValueError("the regions hold NaN or infinite values: repair the node that made them")
    last = max((number for number, prompt in enumerate(prompts, 1) if prompt is not None), default=0)
    if last > len(weights):
        raise ValueError(
            f"prompt_{last} is connected and there are {len(weights)} regions: ask DINO Regions for k {last}, or disconnect it"
        )
    said = [(prompt, weight) for prompt, weight in zip(prompts, weights, strict=False) if prompt is not None]
    rest = 1 - sum((weight for _, weight in said), torch.zeros_like(weights[0]))
    said.append((fallback, rest.clamp(min=0)))
    return [
        [context, {**more, "mask": weight[None], "mask_strength": 1.0, "set_area_to_bounds": False}]
        for prompt, weight in said
        if bool(weight.any())
        for context, more in prompt
    ]
