"""Attention whose heads are wider than the fast kernels take, as in the middle of FLUX's VAE.

Its one head has 512 channels; CUDA's flash kernels take 256. At 4096 px the 262144 positions need 141e12 operations, half of all
that a decode computes, and an encode, of which the rest is small, took 3.5 s on an H100: 46e12 operations a second, a tenth of
what matrix products reach. Two products with a softmax between them, some queries at a time, are as exact: scores are float32.
They pass through memory, some 22 bytes each, for which that GPU needs 0.6 s, and 0.3 s for the products;
`benchmarks/vae_strips.py` measures both ways.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

FLASH = 256  # channels of the widest head that the flash kernels take
SCORES = 1 << 27  # at a time


class WideAttention(TorchFunctionMode):
    """Inside it attention is done in parts where torch has no fast kernel on CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        plain = len(args) == 3 and not any(kwargs.values())  # no mask, no dropout, not causal, the usual scale
        if func is F.scaled_dot_product_attention and plain and _lacks_kernel(args[0]):
            return attention_in_parts(*args)
        return func(*args, **kwargs)


def attention_in_parts(query: Tensor, key: Tensor, value: Tensor, *, scores: int = SCORES) -> Tensor:
    """softmax(q k^T / sqrt(C)) v of [B, heads, N, C], so many ``scores`` at a time."""
    queries, keys, values = (tensor.flatten(0, 1) for tensor in (query, key, value))  # [B heads, N, C]
    queries = queries * query.shape[-1] ** -0.5
    widened = {} if query.dtype == torch.float32 else {"out_dtype": torch.float32}
    out = torch.empty_like(queries)
    rows = max(1, scores // (len(keys) * keys.shape[1]))
    for part, place in zip(queries.split(rows, dim=1), out.split(rows, dim=1), strict=True):
        shares = torch.bmm(part, keys.mT, **widened).softmax(-1).to(values.dtype)  # type: ignore[call-overload]
        torch.bmm(shares, values, out=place)
    return out.view_as(query)


def bytes_of_parts(positions: int, dtype: torch.dtype) -> int:
    """Of the scores of one head, and their shares in float32 and in ``dtype``."""
    return min(SCORES, positions**2) * (4 + 4 + dtype.itemsize) if dtype != torch.float32 else 0


def _lacks_kernel(query: Tensor) -> bool:
    """Also on the meta device, which stands for a GPU where costs are counted."""
    on_cuda = query.is_meta or (query.is_cuda and torch.version.cuda is not None)
    halves = query.dtype in (torch.float16, torch.bfloat16) and "dtype" in torch.ops.aten.bmm.overloads()  # torch 2.8
    return on_cuda and halves and query.shape[-1] > FLASH
