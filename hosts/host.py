"""The contract between FLUX's two hosts and all that stands above: upscaler, trainer, benchmarks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files.progress import Share
from ..flux_patch.adapter import LoadedAdapter
from ..flux_patch.families import ModelFamily
from ..flux_patch.geometry import FluxGeometry
from ..flux_patch.latents import Latents
from ..flux_patch.memo import RunMemo
from ..flux_patch.rows import DinoRow
from .memory import Memory

EMPTY_TOKENS = 8  # of zeros, where there is no text


@dataclass(frozen=True, eq=False)
class Text:
    """What FLUX is told in words: ``context`` [1 or B, n, C] from T5, ``pooled`` [1 or B, V] from CLIP, with V 0 in families
    that have none, and ``guidance``, how strongly dev models follow them (others take none); zeros say nothing. ``mask``
    [1 or B, n]: False for tokens that nothing may attend to, such as padding, or each token's share of the attention as a
    factor; None where all are 1."""

    context: Tensor
    pooled: Tensor
    guidance: float = 3.5
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance {self.guidance} must be a finite number: usually 2 to 4")

    @classmethod
    def empty(cls, geometry: FluxGeometry, *, tokens: int = EMPTY_TOKENS, guidance: float = 3.5) -> Text:
        return cls(torch.zeros(1, tokens, geometry.context), torch.zeros(1, geometry.vector), guidance)

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.context, self.pooled, self.mask) if part is not None)

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Text:
        """dtype: of context and pooled; None: as it is."""
        mask = None if self.mask is None else self.mask.to(device)
        context, pooled = (part.to(device, dtype or part.dtype) for part in (self.context, self.pooled))
        return replace(self, context=context, pooled=pooled, mask=mask)

    def of_length(self, length: int) -> Text:
        """The same text behind zeros where it is shorter, as FLUX.2 has it in ComfyUI; as it is where it is not."""
        more = length - self.context.shape[1]
        if more <= 0:
            return self
        mask = None if self.mask is None else F.pad(self.mask, (more, 0), value=1)
        return replace(self, context=F.pad(self.context, (0, 0, more, 0)), mask=mask)

    def bias(self, length: int, *, dtype: torch.dtype) -> Tensor:
        """Of a ``mask``, for the attention to [text | more tokens]: [1 or B, 1, 1, length]."""
        assert self.mask is not None
        bias = torch.zeros(len(self.mask), 1, 1, length, dtype=dtype, device=self.mask.device)
        bias[:, 0, 0, : self.mask.shape[1]] = self.mask.float().log()  # a key's logits plus ln(w) are w times its share
        return bias

    def followed_by(self, tokens: Tensor, weights: Tensor | None) -> Text:
        """The same text with tokens [B, M, C] behind it, and their shares of the attention [B, M], None where all are 1."""
        count, length = tokens.shape[:2]
        context = torch.cat([self.context.expand(count, -1, -1), tokens.to(self.context)], dim=1)
        if self.mask is None and weights is None:
            return replace(self, context=context)
        before = tokens.new_ones(1, self.context.shape[1]) if self.mask is None else self.mask.to(tokens)
        behind = tokens.new_ones(count, length) if weights is None else weights.to(tokens)
        return replace(self, context=context, mask=torch.cat([before.expand(count, -1), behind], dim=1))


@dataclass(frozen=True, eq=False)
class Hint:
    """What a ControlNet is shown beside noisy latents: those of the enlarged picture, [B, C, h, w]. strength: 0 is off."""

    latents: Tensor
    strength: float


class Estimates(Protocol):
    """What changes the estimates of a sampling run, after all guidance of the model and before the sampler's step."""

    def __call__(self, x0: Tensor, sigma: float, *, start: float) -> Tensor:
        """The estimate [B, C, h, w] of the clean canvas at a noise level of a run that starts at ``start`` -> another."""
        ...


class Host(Protocol):
    """A model with its VAE, and with an adapter or none, on ``device``, computing in ``dtype``. family, geometry: ValueError for
    one that no adapter knows, which ComfyUI may have."""

    device: torch.device
    dtype: torch.dtype
    adapter: LoadedAdapter | None

    @property
    def latents(self) -> Latents: ...

    @property
    def family(self) -> ModelFamily: ...

    @property
    def geometry(self) -> FluxGeometry: ...
    @property
    def memory(self) -> Memory:
        """Of ``device``, for ``in_less``."""
        ...

    def relief(self) -> Iterator[str]:
        """For ``in_less``, while FLUX computes: takes what else there is off the device."""
        ...

    def encode(self, pixels: Tensor, told: Share | None = None) -> Tensor:
        """[B, 3, H, W] in 0..1, sides multiples of ``latents.token`` -> the model's latents [B, C, h, w], float32. told: how much
        of it is done, here and in ``decode``, where it is done in strips."""
        ...

    def decode(self, latents: Tensor, told: Share | None = None) -> Tensor:
        """The model's latents -> [B, 3, H, W] in 0..1, float32; ValueError where the VAE gives what is not finite."""
        ...

    def show(self, latents: Tensor) -> Tensor:
        """``decode``, by a small VAE where there is one."""
        ...

    def read(self, pixels: Tensor) -> Tensor:
        """``encode``, by that VAE; pixels may lie beyond 0..1."""
        ...

    def load(self, shape: list[int]) -> None:
        """FLUX onto its device, for latents of that shape: what is free then is what a batch of tiles can have."""
        ...

    def velocity(
        self,
        latents: Tensor,
        sigmas: Tensor,
        *,
        text: Text,
        rows: Sequence[DinoRow] = (),
        hint: Hint | None = None,
        memo: RunMemo | None = None,
    ) -> Tensor:
        """[B, C, h, w], float32, at noise levels [B]; differentiable in the adapter.

        rows: one per latent, or none where DINO has no say. hint: for a ControlNet, where there is one.
        memo: kept by the caller for the length of one sampling run.
        """
        ...

    def check_interrupt(self) -> None:
        """Raise where the user wants the work to end."""
        ...
