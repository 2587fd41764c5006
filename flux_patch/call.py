"""The tensors of one FLUX call with DINO, and what they add to its attention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .adapter import LoadedAdapter
from .geometry import rotate


@dataclass(frozen=True, eq=False)
class Regions:
    """What the rows of a call make of their regions, the same at every noise level. B rows, M DINO tokens: CLS, grid^2 patches,
    and those of the whole picture."""

    sequence: Tensor  # [B, M, C], [CLS | patches | shared] of each row's region
    keys: (
        Tensor | None
    )  # [sites, 2, B, H, M, D], rotated keys and values; None with autograd, and without cross-attention
    context: Tensor | None  # [B, n, context], appended to the text
    vector: Tensor | None  # [B, vector], added to the pooled text at weight 1


@dataclass(frozen=True, eq=False)
class DinoCall:
    """The tensors of one FLUX call. B rows, N image tokens, M DINO tokens."""

    adapter: LoadedAdapter
    image_tokens: int
    regions: Regions
    site_weights: Tensor  # [B, sites]
    query_weights: Tensor | None  # [B, N], from masks
    q_rotation: Tensor  # [N, D/2, 2, 2]
    key_rotation: Tensor  # [M, D/2, 2, 2]
    text_weights: Tensor | None  # [B], weight of the context tokens; None where all are 1
    vector: Tensor | None  # [B, vector], added to the pooled text

    @property
    def context(self) -> Tensor | None:
        return self.regions.context

    @cached_property
    def weights(self) -> Tensor:
        """Of each site, row and image token, [sites, B, 1 or N, 1, 1], in the dtype of the call."""
        weights = self.site_weights.T[..., None]
        if self.query_weights is not None:
            weights = weights * self.query_weights
        return weights[..., None, None].to(self.regions.sequence.dtype)

    def attend(self, site: str, q: Tensor, attention: Tensor) -> Tensor:
        """The attention output of a site's image tokens [B, N, H * D] with what DINO adds to it, for their queries
        [B, H, N, D] before rotation; in place where autograd is off."""
        number = self.adapter.config.sites.index(site)
        weight = self.weights[number]
        if self.regions.keys is not None:
            return add_attention(attention, rotate(q, self.q_rotation), self.regions.keys[number], weight)
        added = self.adapter.module.site(site)(
            q, self.regions.sequence.to(q.dtype), q_rotation=self.q_rotation, key_rotation=self.key_rotation
        )
        return attention + added * weight.squeeze(-1)

    def text_bias(self, *, start: int, length: int, dtype: torch.dtype) -> Tensor:
        """Attention bias [B, 1, 1, length] that weighs the context tokens at ``start`` by the rows' strength.

        Adding ln(w) to a key's logits multiplies its softmax weight by w. Only where there are ``text_weights``.
        """
        return pad_bias(self.text_logs(), start=start, length=length, dtype=dtype)

    def text_logs(self) -> Tensor:
        """[B, 1, 1, n]: of the context tokens' weights."""
        assert self.context is not None and self.text_weights is not None
        return self.text_weights.log()[:, None, None, None].expand(-1, -1, -1, self.context.shape[1])


def add_attention(output: Tensor, q: Tensor, keys: Tensor, weight: Tensor, *, in_place: bool = True) -> Tensor:
    """``output`` [B, N, H * D] plus weight * softmax(q K) V, with one pass over it beside the attention itself.

    q: rotated [B, H, N, D]. keys: K and V, [2, B, H, M, D]. weight: [B, 1 or N, 1, 1].
    """
    keys = keys.to(q.dtype)
    added = F.scaled_dot_product_attention(q, keys[0], keys[1]).transpose(1, 2)  # [B, N, H, D]
    heads = output.unflatten(-1, added.shape[2:])
    return (heads.addcmul_(added, weight) if in_place else heads.addcmul(added, weight)).flatten(-2)


def pad_bias(bias: Tensor, *, start: int, length: int, dtype: torch.dtype) -> Tensor:
    """A bias of some tokens [B, 1, 1, n] as one of ``length`` tokens, 0 for the others."""
    return F.pad(bias, (start, length - start - bias.shape[-1])).to(dtype)
