"""What one batch row of a FLUX call needs to know of DINO, and how rows become tensors for that call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapter import LoadedAdapter
from .geometry import RopeOptions, dino_ids, image_ids, rotary
from .schedule import PercentToSigma, Strength, depth_weights
from .tokens import DinoTokens

Fractions = tuple[float, float, float, float]
WHOLE: Fractions = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class DinoRow:
    """One row of a batch.

    tokens: a picture's, or None for the learned null. image: which picture of them. box: the row's region as
    fractions (top, left, height, width) of the canvas. settings: None means that DINO has no say in this row.
    """

    tokens: DinoTokens | None = None
    image: int = 0
    box: Fractions = WHOLE
    settings: Strength | None = None


@dataclass(frozen=True, eq=False)
class DinoCall:
    """The tensors of one FLUX call. B rows, N image tokens, M = 1 + grid^2 DINO tokens."""

    adapter: LoadedAdapter
    image_tokens: int
    sequence: Tensor  # [B, M, C], [CLS | patches] of each row's region
    site_weights: Tensor  # [B, sites]
    query_weights: Tensor | None  # [B, N], from masks
    q_rotation: Tensor  # [N, D/2, 2]
    key_rotation: Tensor  # [M, D/2, 2]
    context: Tensor | None  # [B, n, context], appended to the text
    text_weights: Tensor | None  # [B], weight of the context tokens; None where all are 1
    vector: Tensor | None  # [B, vector], added to the pooled text

    def attend(self, site: str, q: Tensor) -> Tensor:
        """What a site adds to the attention output of its image tokens: q [B, H, N, D] to [B, N, H * D]."""
        index = self.adapter.config.sites.index(site)
        out = self.adapter.module.site(site)(
            q, self.sequence.to(q.dtype), q_rotation=self.q_rotation, key_rotation=self.key_rotation
        )
        weights = self.site_weights[:, index, None, None]
        if self.query_weights is not None:
            weights = weights * self.query_weights[..., None]
        return out * weights.to(out.dtype)

    def text_bias(self, *, start: int, length: int, dtype: torch.dtype) -> Tensor:
        """Attention bias [B, 1, 1, length] that weighs the context tokens at ``start`` by the rows' strength.

        Adding ln(w) to a key's logits multiplies its softmax weight by w. Only where there are ``text_weights``.
        """
        assert self.context is not None and self.text_weights is not None
        bias = torch.zeros(len(self.text_weights), 1, 1, length, device=self.text_weights.device)
        bias[..., start : start + self.context.shape[1]] = self.text_weights.log()[:, None, None, None]
        return bias.to(dtype)


def make_call(
    adapter: LoadedAdapter,
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

    sigmas: noise level of each row. memo: keeps what does not change for the length of one sampling run: each region's
    tokens and mask, and the positions.
    """
    settings = [row.settings or Strength(0.0) for row in rows]
    strengths = [s.at(sigma, percent_to_sigma) for s, sigma in zip(settings, sigmas, strict=True)]
    if not any(strengths) or not any(adapter.has(m) for m in adapter.config.mechanisms):
        return None
    memo = {} if memo is None else memo
    height, width = token_size
    sequence = torch.stack([_sequence(adapter, row, memo, device=device, dtype=dtype) for row in rows])  # [B, M, C]
    masks = [_mask(s, row, memo, height=height, width=width) for s, row in zip(settings, rows, strict=True)]
    weights = [s * (1.0 if mask is None else mask[1]) for s, mask in zip(strengths, masks, strict=True)]
    query_weights = None
    if any(mask is not None for mask in masks):
        everywhere = torch.ones(height * width)
        query_weights = torch.stack([everywhere if m is None else m[0] for m in masks]).to(device)  # [B, N]
    q_rotation, key_rotation = _rotations(adapter, token_size, rope_options or RopeOptions(), memo, device=device)
    context = adapter.module.context_tokens(sequence) if adapter.has("context") else None
    vector = adapter.module.vector_delta(sequence) if adapter.has("vector") else None
    return DinoCall(
        adapter=adapter,
        image_tokens=height * width,
        sequence=sequence,
        site_weights=_site_weights(adapter, settings, strengths, sigmas, device=device),
        query_weights=query_weights,
        q_rotation=q_rotation,
        key_rotation=key_rotation,
        context=context,
        text_weights=None if context is None or all(w == 1 for w in weights) else torch.tensor(weights, device=device),
        vector=None if vector is None else vector * torch.tensor(weights, device=device, dtype=dtype)[:, None],
    )


def _mask(settings: Strength, row: DinoRow, memo: dict, *, height: int, width: int) -> tuple[Tensor, float] | None:
    """The row's part of the user's mask, [height * width] on the CPU, and its mean."""
    if settings.mask is None:
        return None
    key = ("mask", id(settings.mask), row.box, height, width)
    if key not in memo:
        mask = settings.mask_on(row.box, height=height, width=width)
        memo[key] = (mask.flatten(), float(mask.mean()))
    return memo[key]


def _rotations(
    adapter: LoadedAdapter, token_size: tuple[int, int], options: RopeOptions, memo: dict, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rotary positions of the image tokens and of [CLS | patches]; all the same where the adapter has none."""
    height, width = token_size
    config = adapter.config
    key = ("rotation", config.grid, config.positions, token_size, options, device)
    if key not in memo:
        image = image_ids(height, width, family=config.family, options=options)
        dino = dino_ids(config.grid, height=height, width=width, family=config.family, options=options)
        if not config.positions:
            image, dino = torch.zeros_like(image), torch.zeros_like(dino)
        memo[key] = tuple(rotary(ids, config.family).to(device) for ids in (image, dino))
    return memo[key]


def _sequence(adapter: LoadedAdapter, row: DinoRow, memo: dict, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[CLS | patches] of a row, [1 + grid^2, C]."""
    module, grid = adapter.module, adapter.config.grid
    if row.tokens is None:
        null = torch.cat([module.null_cls[None], module.null_patch.expand(grid * grid, -1)])
        return null.to(device, dtype)
    key = ("sequence", grid, id(row.tokens), row.image, row.box, device, dtype)
    if key not in memo:
        memo[key] = row.tokens.sequence(row.image, row.box, grid).to(device, dtype)
    return memo[key]


def _site_weights(
    adapter: LoadedAdapter,
    settings: Sequence[Strength],
    strengths: Sequence[float],
    sigmas: Sequence[float],
    *,
    device: torch.device,
) -> Tensor:
    """Row strength x profile over depth x learned gate of the noise level, [B, sites]."""
    if not adapter.has("cross_attention"):
        return torch.zeros(len(strengths), len(adapter.config.sites), device=device)
    depths = adapter.config.depths
    weights = torch.stack([s * depth_weights(p.profile, depths) for s, p in zip(strengths, settings, strict=True)])
    gates = adapter.module.gate(torch.tensor(list(sigmas), device=device)).float()
    return weights.to(device) * gates
