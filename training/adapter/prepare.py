"""Training pictures as FLUX and DINO need them: latents, and features of a degraded source; remembered where asked."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ...dino.encode import EncodeSettings
from ...dino.feature_map import FeatureMap
from ...hosts.diffusers.host import Host
from ..data.degrade import degrade
from ..data.sample import Sample
from .cases import generator_for
from .config import TrainConfig

Source = Literal["none", "usual", "weak"]  # what DINO sees
PLAIN_TOKENS = 8  # of zeros, where the data has no text: as many as the upscaler gives FLUX without text encoders


class Pictures(Protocol):
    """``data.Data``, or whatever a caller brings."""

    @property
    def skipped(self) -> Counter[str]: ...

    def __len__(self) -> int: ...

    def get(self, index: int, *, generator: torch.Generator) -> Sample | None:
        """The sample, cut and flipped by ``generator``; None where it cannot be used, which is counted in ``skipped``."""
        ...


@dataclass(frozen=True, eq=False)
class Prepared:
    """latents: [16, h, w] of the whole picture. features: B = 1, None where DINO was not asked for. source: latents of the
    degraded picture that DINO saw, None where no row begins there."""

    name: str
    latents: Tensor
    features: FeatureMap | None
    context: Tensor  # [n, C], zeros where the data has no text
    pooled: Tensor  # [V]
    source: Tensor | None = None  # [16, h, w]


class Preparer:
    """Encodes pictures of ``data`` with ``host``.

    With ``data.cache`` every picture keeps one cut and one degradation of each kind, which depend on the seed and the
    picture only: what the memory holds at a moment never changes a result.
    """

    def __init__(self, host: Host, data: Pictures, *, config: TrainConfig) -> None:
        self.host, self.data, self.config = host, data, config
        self.encode_settings = EncodeSettings(layers=host.adapter.config.layers)
        self._memory: OrderedDict[tuple[int, bool], Prepared | None] = OrderedDict()

    def get(self, index: int, *, source: Source, generator: torch.Generator) -> Prepared | None:
        """The picture for one row, from memory if there is one; None where the data skips it."""
        capacity = self.config.data.cache
        if not capacity:
            return self.prepare(index, source=source, generator=generator)
        key = (index, source == "weak")
        if key not in self._memory:
            fixed = generator_for(self.config.optimisation.seed, "remembered", *key)
            self._memory[key] = self.prepare(index, source="weak" if key[1] else "usual", generator=fixed)
            if len(self._memory) > 2 * capacity:
                self._memory.popitem(last=False)
        self._memory.move_to_end(key)
        return self._memory[key]

    def prepare(self, index: int, *, source: Source, generator: torch.Generator) -> Prepared | None:
        sample = self.data.get(index, generator=generator)
        if sample is None:
            return None
        if source == "none" or sample.features is not None:
            return self.prepared(sample, None if source == "none" else sample.features)
        degraded = self.degraded(sample, weak=source == "weak", generator=generator)
        return self.prepared(sample, self.host.features(degraded[None], self.encode_settings), degraded=degraded)

    def prepared(self, sample: Sample, features: FeatureMap | None, *, degraded: Tensor | None = None) -> Prepared:
        """degraded: [3, H, W], what DINO saw, encoded where rows begin there."""
        geometry, context, pooled = self.host.geometry, sample.context, sample.pooled
        for kind, text, width in (("t5", context, geometry.context), ("clip", pooled, geometry.vector)):
            if text is not None and text.shape[-1] != width:
                raise ValueError(
                    f"{sample.name} brings {kind} text of width {text.shape[-1]}, the FLUX model takes {width}: encode the "
                    f"captions with this model's own text encoders"
                )
        return Prepared(
            name=sample.name,
            latents=self._latents(sample.pixels),
            features=features,
            context=torch.zeros(PLAIN_TOKENS, geometry.context) if context is None else context.float(),
            pooled=torch.zeros(geometry.vector) if pooled is None else pooled.float(),
            source=None if degraded is None or not self.config.conditions.from_source else self._latents(degraded),
        )

    def degraded(self, sample: Sample, *, weak: bool, generator: torch.Generator) -> Tensor:
        """What DINO sees, [3, H, W]: the data's own source, or a degraded copy; the weak case degrades either."""
        if sample.source is not None and not weak:
            return sample.source
        pixels = sample.pixels if sample.source is None else sample.source
        return degrade(pixels, self.config.degradation, generator=generator, weak=weak)

    def _latents(self, pixels: Tensor) -> Tensor:
        return self.host.encode(pixels[None])[0].float().cpu()
