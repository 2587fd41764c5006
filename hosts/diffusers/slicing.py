"""Attention of FLUX and the VAE in slices, for devices whose kernels make the whole matrix of scores (MPS, older GPUs).

diffusers' own does nothing to FLUX, whose attention has no ``set_attention_slice``. CUDA's fused kernels never make that matrix,
and need no slices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

QUERIES = 1024  # at a time


class SlicedAttention(TorchFunctionMode):
    """While it is entered, so many queries at a time attend to all keys: the same numbers, as rows do not know each other."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return _sliced(*args, **kwargs) if func is F.scaled_dot_product_attention else func(*args, **kwargs)


def _sliced(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    """Of ``scaled_dot_product_attention``; a diffusion model's is never causal."""
    out = []
    for start in range(0, query.shape[-2], QUERIES):
        rows = slice(start, start + QUERIES)
        mask = attn_mask if attn_mask is None or attn_mask.shape[-2] == 1 else attn_mask[..., rows, :]
        out.append(F.scaled_dot_product_attention(query[..., rows, :], key, value, attn_mask=mask, **options))
    return torch.cat(out, dim=-2)
