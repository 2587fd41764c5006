"""A plain vision transformer: pre-norm blocks with normalised queries and keys, and gated layers."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import VitSize


class Attention(nn.Module):
    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.heads, head = size.heads, size.width // size.heads
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.q_norm, self.k_norm = nn.LayerNorm(head), nn.LayerNorm(head)
        self.out = nn.Linear(size.width, size.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: [B, N, C]. mask: [N, N], True where the row may see the column."""
        q, k, v = self.projected(x)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(out, "b h n d -> b n (h d)"))

    def shares(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much each token looks at each, mean over the heads: [B, N, N], rows sum to 1."""
        q, k, _ = self.projected(x)
        logits = (q @ k.mT).float() / q.shape[-1] ** 0.5  # [B, heads, N, N]
        logits = logits if mask is None else logits.masked_fill(~mask, -float("inf"))
        return logits.softmax(-1).mean(1)

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [B, heads, N, d] each."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v


class SwiGlu(nn.Module):
    """silu(x W) * (x V), then back (arXiv 2002.05202), at the full width."""

    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.up = nn.Linear(size.width, 2 * size.mlp)
        self.down = nn.Linear(size.mlp, size.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class Block(nn.Module):
    def __init__(self, size: VitSize) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.attention, self.mlp = Attention(size), SwiGlu(size)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))


class Vit(nn.Module):
    """Blocks and the last norm; tokens [B, N, C] to the same. half: with half of the blocks."""

    def __init__(self, size: VitSize, *, half: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth // 2 if half else size.depth))
        self.norm = nn.LayerNorm(size.width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)
