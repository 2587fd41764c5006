"""Attention in parts is attention."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from dinotile.benchmarks.counts import Counts, Fused
from dinotile.hosts.wide_attention import WideAttention, attention_in_parts


def heads(*shape, **kinds):
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(**kinds)


@pytest.mark.parametrize("scores", [1, 7 * 2 * 3 * 50, 1 << 20])
def test_parts_are_the_whole(scores):
    query, key, value = heads(2, 3, 50, 40)
    expected = scaled_dot_product_attention(query, key, value)
    assert (attention_in_parts(query, key, value, scores=scores) - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("width", "dtype", "named", "parts"),
    [
        (512, torch.bfloat16, {}, True),
        (512, torch.float16, {"attn_mask": None, "dropout_p": 0.0, "is_causal": False}, True),
        (512, torch.bfloat16, {"is_causal": True}, False),
        (512, torch.float32, {}, False),
        (128, torch.bfloat16, {}, False),
    ],
)
def test_only_what_gpus_have_no_kernel_for_is_done_in_parts(width, dtype, named, parts):
    """On the meta device, which stands for a GPU and computes nothing."""
    query, key, value = heads(1, 1, 60, width, device="meta", dtype=dtype)
    with Counts() as counts, Fused(), WideAttention():
        out = scaled_dot_product_attention(query, key, value, **named)
    assert out.shape == query.shape and out.dtype == dtype
    assert counts.flops == 4 * 60 * 60 * width
    assert (counts.kernels > 3) == parts


def test_the_cpu_keeps_its_own_kernel():
    query, key, value = heads(1, 1, 60, 512, dtype=torch.bfloat16)
    expected = scaled_dot_product_attention(query, key, value)
    with WideAttention():
        assert torch.equal(scaled_dot_product_attention(query, key, value), expected)
