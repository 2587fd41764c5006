"""What one batch row of a FLUX call needs to know of DINO, and how rows become tensors for that call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..dino.feature_map import FeatureMap
from .adapter import DinoAdapter
from .geometry import RopeOptions, dino_ids, image_ids, rotary
from .schedule import PercentToSigma, Strength, depth_weights

Fractions = tuple[float, float, float, float]
WHOLE: Fractions = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class DinoRow:
    """One row of a batch.

    tokens: projected features, or None for the learned null. image: which picture of them. box: the row's region as
    fractions (top, left, height, width) of the canvas. settings: None means that DINO has no say in this row.
    """

    tokens: FeatureMap | None = None
    image: int = 0
    box: Fractions = WHOLE
    settings: Strength | None = None


@dataclass(frozen=True)
class DinoCall:
    """The tensors of one FLUX call. B rows, N image tokens, M = 1 + grid^2 DINO tokens."""

    adapter: DinoAdapter
    image_tokens: int
    tokens: Tensor  # [B, M, C]
    weights: Tensor  # [B], strength of each row
    site_weights: Tensor  # [B, sites]
    query_weights: Tensor | None  # [B, N], from masks
    q_rotation: Tensor  # [N, D/2, 2]
    token_rotation: Tensor  # [M, D/2, 2]
    context: Tensor | None  # [B, n, context], appended to the text
    vector: Tensor | None  # [B, vector], added to the pooled text

    def attend(self, site: str, q: Tensor) -> Tensor:
        """What a site adds to the attention output of its image tokens: q [B, H, N, D] to [B, N, H * D]."""
        index = self.adapter.config.sites.index(site)
        out = self.adapter.site(site)(
            q, self.tokens.to(q.dtype), q_rotation=self.q_rotation, token_rotation=self.token_rotation
        )
        weights = self.site_weights[:, index, None, None]
        if self.query_weights is not None:
            weights = weights * self.query_weights[..., None]
        return out * weights.to(out.dtype)

    def text_bias(self, *, start: int, length: int, dtype: torch.dtype) -> Tensor | None:
        """Attention bias [B, 1, 1, length] that weighs the context tokens at ``start`` by the rows' strength.

        Adding ln(w) to a key's logits multiplies its softmax weight by w. None where every weight is 1.
        """
        if self.context is None or bool((self.weights == 1).all()):
            return None
        bias = torch.zeros(len(self.weights), 1, 1, length, device=self.weights.device)
        bias[..., start : start + self.context.shape[1]] = self.weights.log()[:, None, None, None]
        return bias.to(dtype)


def make_call(
    adapter: DinoAdapter,
    rows: Sequence[DinoRow],
    *,
    sigmas: Sequence[float],
    token_size: tuple[int, int],
    percent_to_sigma: PercentToSigma,
    device: torch.device,
    dtype: torch.dtype,
    rope_options: RopeOptions | None = None,
    memo: dict | None = None,
) -> DinoCall | None:
    """Tensors for one call of FLUX on ``token_size`` (height, width) image tokens per row; None where nothing would change.

    sigmas: noise level of each row. memo: keeps each region's sampled tokens for the length of one sampling run.
    """
    settings = [row.settings or Strength(0.0) for row in rows]
    strengths = [s.at(sigma, percent_to_sigma) for s, sigma in zip(settings, sigmas, strict=True)]
    if not any(strengths) or not any(adapter.has(m) for m in adapter.config.mechanisms):
        return None
    height, width = token_size
    memo = {} if memo is None else memo
    tokens = torch.stack([_tokens(adapter, row, memo, device=device, dtype=dtype) for row in rows])  # [B, M, C]
    masks = [s.mask_on(row.box, height=height, width=width) for s, row in zip(settings, rows, strict=True)]
    shares = [1.0 if mask is None else float(mask.mean()) for mask in masks]
    weights = torch.tensor([a * b for a, b in zip(strengths, shares, strict=True)], device=device)
    query_weights = None
    if any(mask is not None for mask in masks):
        query_weights = torch.stack([torch.ones(height, width) if m is None else m.cpu() for m in masks])
        query_weights = query_weights.flatten(1).to(device)  # [B, N]
    options = rope_options or RopeOptions()
    return DinoCall(
        adapter=adapter,
        image_tokens=height * width,
        tokens=tokens,
        weights=weights,
        site_weights=_site_weights(adapter, settings, strengths, sigmas, device=device, dtype=dtype),
        query_weights=query_weights,
        q_rotation=rotary(image_ids(height, width, options=options, device=device)),
        token_rotation=rotary(
            dino_ids(adapter.config.grid, height=height, width=width, options=options, device=device)
        ),
        context=adapter.context_tokens(tokens) if adapter.has("context") else None,
        vector=adapter.vector_delta(tokens) * weights[:, None].to(dtype) if adapter.has("vector") else None,
    )


def _tokens(adapter: DinoAdapter, row: DinoRow, memo: dict, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[CLS | patches] of a row, [1 + grid^2, C]."""
    grid = adapter.config.grid
    if row.tokens is None:
        null = torch.cat([adapter.null_cls[None], adapter.null_patch.expand(grid * grid, -1)])
        return null.to(device, dtype)
    key = (id(row.tokens), row.image, row.box, device, dtype)
    if key not in memo:
        image = row.image % len(row.tokens.patches)
        one = row.tokens.with_patches(row.tokens.patches[image, None], row.tokens.cls[image, None])
        patches = one.sample([row.box], grid)[0, 0].flatten(0, 1)  # [grid^2, C]
        memo[key] = torch.cat([one.cls, patches]).to(device, dtype)
    return memo[key]


def _site_weights(
    adapter: DinoAdapter,
    settings: Sequence[Strength],
    strengths: Sequence[float],
    sigmas: Sequence[float],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Row strength x profile over depth x learned gate of the noise level, [B, sites]."""
    if not adapter.has("cross_attention"):
        return torch.zeros(len(strengths), len(adapter.config.sites), device=device)
    depths = adapter.config.depths
    weights = torch.stack([s * depth_weights(p.profile, depths) for s, p in zip(strengths, settings, strict=True)])
    gates = adapter.gate(torch.tensor(list(sigmas), device=device)).float()
    return weights.to(device) * gates
