"""What one batch row of a FLUX call needs to know of DINO, and how rows become the tensors of that call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapter import LoadedAdapter
from .call import DinoCall, Regions
from .geometry import PLAIN, RopeOptions, dino_ids, image_ids, rotary
from .memo import RunMemo
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


def make_call(
    adapter: LoadedAdapter,
    rows: Sequence[DinoRow],
    *,
    sigmas: Tensor,
    token_size: tuple[int, int],
    percent_to_sigma: PercentToSigma,
    dtype: torch.dtype,
    rope_options: RopeOptions = PLAIN,
    memo: RunMemo | None = None,
) -> DinoCall | None:
    """Tensors for one call of FLUX on ``token_size`` (height, width) image tokens per row; None where nothing would change.

    sigmas: noise level of each row, [B] on the device of the call. memo: keeps what does not change for the length of one
    sampling run. From the second call on nothing is made on the host and moved to the device, nor the other way round, but for
    sigmas where DINO acts in a part of the schedule only.
    """
    settings = [row.settings or Strength(0.0) for row in rows]
    levels = [1.0] * len(rows) if all(s.always for s in settings) else sigmas.tolist()
    strengths = [s.at(sigma, percent_to_sigma) for s, sigma in zip(settings, levels, strict=True)]
    if not any(strengths) or not any(adapter.has(m) for m in adapter.config.mechanisms):
        return None
    device, memo = sigmas.device, RunMemo() if memo is None else memo
    height, width = token_size
    q_rotation, key_rotation = _rotations(adapter, token_size, rope_options, memo, device=device)

    def regions() -> Regions:
        sequence = torch.stack([_sequence(adapter, row, memo, device=device, dtype=dtype) for row in rows])
        return make_regions(adapter, sequence, key_rotation)

    if torch.is_grad_enabled():
        made = regions()
    else:
        key = ("regions", id(adapter), _places(rows), token_size, rope_options, device, dtype)
        made = memo.once(key, regions, large=True)
    masks = [_mask(s, row, memo, height=height, width=width) for s, row in zip(settings, rows, strict=True)]
    weights = tuple(s * (1.0 if mask is None else mask[1]) for s, mask in zip(strengths, masks, strict=True))

    def row_weights() -> Tensor:
        return torch.tensor(weights, device=device)

    text_weights = vector = None
    if made.context is not None and any(w != 1 for w in weights):
        text_weights = memo.once(("weights", weights, device), row_weights)
    if made.vector is not None:
        vector = made.vector * memo.once(("weights", weights, device), row_weights).to(dtype)[:, None]
    return DinoCall(
        adapter=adapter,
        image_tokens=height * width,
        regions=made,
        site_weights=_site_weights(adapter, settings, strengths, sigmas, memo),
        query_weights=_query_weights(settings, rows, masks, memo, tokens=height * width, device=device),
        q_rotation=q_rotation,
        key_rotation=key_rotation,
        text_weights=text_weights,
        vector=vector,
    )


def make_regions(adapter: LoadedAdapter, sequence: Tensor, key_rotation: Tensor) -> Regions:
    """From [CLS | patches | shared] of each row, [B, M, C]."""
    module, config = adapter.module, adapter.config
    keys = None
    if adapter.has("cross_attention") and not torch.is_grad_enabled():
        heads = config.geometry.heads
        sites = [module.site(name).keys(sequence, rotation=key_rotation, heads=heads) for name in config.sites]
        keys = torch.stack([each for pair in sites for each in pair]).unflatten(0, (-1, 2)).to(sequence.dtype)
    context = module.context_tokens(sequence) if adapter.has("context") else None
    return Regions(sequence, keys, context, module.vector_delta(sequence) if adapter.has("vector") else None)


def _places(rows: Sequence[DinoRow]) -> tuple:
    """What tells apart the rows' sequences; the learned null is the same everywhere."""
    return tuple(None if row.tokens is None else (id(row.tokens), row.image, row.box) for row in rows)


def _mask(settings: Strength, row: DinoRow, memo: RunMemo, *, height: int, width: int) -> tuple[Tensor, float] | None:
    """The row's part of the user's mask, [height * width] on the CPU, and its mean."""
    if settings.mask is None:
        return None

    def make() -> tuple[Tensor, float]:
        mask = settings.mask_on(row.box, height=height, width=width)
        return mask.flatten(), float(mask.mean())

    return memo.once(("mask", id(settings.mask), row.box, height, width), make)


def _query_weights(
    settings: Sequence[Strength],
    rows: Sequence[DinoRow],
    masks: Sequence[tuple[Tensor, float] | None],
    memo: RunMemo,
    *,
    tokens: int,
    device: torch.device,
) -> Tensor | None:
    """[B, N] from the rows' masks, None where there are none."""
    if all(mask is None for mask in masks):
        return None

    def make() -> Tensor:
        return torch.stack([torch.ones(tokens) if mask is None else mask[0] for mask in masks]).to(device)

    places = tuple((id(s.mask), row.box) for s, row in zip(settings, rows, strict=True))
    return memo.once(("query weights", places, tokens, device), make)


def _rotations(
    adapter: LoadedAdapter, token_size: tuple[int, int], options: RopeOptions, memo: RunMemo, *, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Rotary positions of the image tokens and of DINO's; all the same where the adapter has none."""
    height, width = token_size
    config = adapter.config

    def make() -> tuple[Tensor, Tensor]:
        image = image_ids(height, width, family=config.family, options=options)
        dino = dino_ids(
            config.grid, height=height, width=width, family=config.family, options=options, shared=config.shared
        )
        if not config.positions:
            image, dino = torch.zeros_like(image), torch.zeros_like(dino)
        return rotary(image, config.family).to(device), rotary(dino, config.family).to(device)

    return memo.once(("rotation", config.grid, config.shared, config.positions, token_size, options, device), make)


def _sequence(
    adapter: LoadedAdapter, row: DinoRow, memo: RunMemo, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """[CLS | patches | shared] of a row, [M, C]."""
    grid, tokens = adapter.config.grid, row.tokens
    if tokens is None:
        return adapter.module.null().to(device, dtype)
    key = ("sequence", grid, id(tokens), row.image, row.box, device, dtype)
    return memo.once(key, lambda: tokens.sequence(row.image, row.box, grid).to(device, dtype))


def _site_weights(
    adapter: LoadedAdapter, settings: Sequence[Strength], strengths: Sequence[float], sigmas: Tensor, memo: RunMemo
) -> Tensor:
    """Row strength x profile over depth x learned gate of the noise level, [B, sites]."""
    config, device = adapter.config, sigmas.device

    def make() -> Tensor:
        depths = config.depths if adapter.has("cross_attention") else []
        weights = [s * depth_weights(p.profile, depths) for s, p in zip(strengths, settings, strict=True)]
        return torch.stack(weights).to(device)

    kinds = tuple(s.profile for s in settings)
    weights = memo.once(("site weights", id(adapter), tuple(strengths), kinds, device), make)
    return weights * adapter.module.gate(sigmas).float() if adapter.has("cross_attention") else weights
