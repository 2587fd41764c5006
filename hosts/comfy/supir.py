"""SUPIR's picture on a canvas that ends up to a token beyond it, as *DINO Tiled Upscale* pads pictures to whole tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ...tiling.plan import TilePlan

HINT = "hint_latent"  # [B, C, h, w], by which its patch is known
NODE = "SUPIRApply"  # whose function after CFG compares an estimate with the picture
AFTER_CFG = "sampler_post_cfg_function"


def lacks(hint: Tensor, plan: TilePlan) -> bool:
    """Whether a canvas in px is larger than a hint by what padding to whole tokens adds to it."""
    token = -(-plan.grid // plan.cell)
    sides = [(side // plan.cell, of) for side, of in zip((plan.height, plan.width), hint.shape[-2:], strict=True)]
    return any(side > of for side, of in sides) and all(side == -(-of // token) * token for side, of in sides)


def padded(hint: Tensor, plan: TilePlan) -> Tensor:
    """A hint that ``lacks`` of it, as large as the canvas: its last row and column again."""
    rows, columns = plan.height // plan.cell - hint.shape[-2], plan.width // plan.cell - hint.shape[-1]
    return F.pad(hint, (0, columns, 0, rows), mode="replicate")


def compare_within(model_options: dict[str, Any], hints: list[Tensor], plan: TilePlan) -> None:
    """Have the node's function see of an estimate what its picture has; the rest stays as it is. model_options: of one run."""
    short = [hint for hint in hints if lacks(hint, plan)]
    if short:
        given = model_options.get(AFTER_CFG, [])
        model_options[AFTER_CFG] = [_within(each, *short[0].shape[-2:]) if _compares(each) else each for each in given]


def _compares(function: Any) -> bool:
    return getattr(function, "__qualname__", "").startswith(f"{NODE}.")


def _within(
    function: Callable[[dict[str, Any]], Tensor], rows: int, columns: int
) -> Callable[[dict[str, Any]], Tensor]:
    def compared(args: dict[str, Any]) -> Tensor:
        whole = args["denoised"].clone()
        part = whole[..., :rows, :columns]
        whole[..., :rows, :columns] = function({**args, "denoised": part.clone()})
        return whole

    return compared
