"""FLUX's weights in fewer bits than it computes in: what a step reads is widened layer by layer."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

Weights = Literal["full", "fp8", "nf4"]  # the dtype of computing, or fewer bits


def check_weights(weights: str, device: torch.device) -> None:
    """ValueError where FLUX's weights cannot be kept so on that device."""
    if weights not in get_args(Weights):
        raise ValueError(f"weights {weights!r} must be one of {', '.join(get_args(Weights))}")
    if weights == "nf4" and find_spec("bitsandbytes") is None:
        raise ValueError("weights nf4 needs bitsandbytes: pip install bitsandbytes, or take fp8 or full")
    if weights == "fp8":
        try:
            torch.zeros(1, device=device).to(torch.float8_e4m3fn)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device {device} has no 8-bit floats for weights fp8: take nf4 or full") from error


def narrow(transformer: FluxTransformer2DModel, weights: Weights) -> None:
    """Keep FLUX's weights so; it goes on computing in its dtype.

    fp8: diffusers' layerwise casting, which leaves norms and modulations wide. nf4: the Linear layers of all blocks in 4 bits
    (arXiv 2305.14314, section 3) by bitsandbytes, made where the model is moved to next.
    """
    if weights != "full" and getattr(transformer, "is_quantized", False):
        raise ValueError(f"FLUX comes quantised already, and cannot be kept as {weights} too: leave weights at full")
    if weights == "fp8":
        transformer.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=transformer.dtype)
    elif weights == "nf4":
        for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks):
            _four_bits(blocks)


def _four_bits(parent: nn.Module) -> None:
    # Not by diffusers' quantizer: that one wants a GPU while it loads, and leaves nothing to be offloaded.
    bitsandbytes: Any = import_module("bitsandbytes.nn")

    for name, child in parent.named_children():
        if not isinstance(child, nn.Linear):
            _four_bits(child)
            continue
        with torch.device("meta"):
            size = child.in_features, child.out_features
            layer = bitsandbytes.Linear4bit(*size, child.bias is not None, compute_dtype=child.weight.dtype)
        layer.weight = bitsandbytes.Params4bit(child.weight.data, requires_grad=False, quant_type="nf4")
        layer.bias = child.bias
        setattr(parent, name, layer)
