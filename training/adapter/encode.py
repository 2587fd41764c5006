"""Training pictures as FLUX and DINO need them: latents, and features of a degraded source; remembered where asked."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ...dino.encode import DinoEncoder
from ...dino.feature_map import FeatureMap
from ...hosts.host import Host, Text
from ..core.random import generator_for
from ..data.degrade import degrade
from ..data.pictures import Data
from ..data.sample import Sample
from ..data.sources import listing
from .config import TrainConfig
from .kept import EncodedFolder as EncodedFolder
from .kept import EncodedPicture as EncodedPicture

Source = Literal["none", "usual", "weak"]  # what DINO sees


class PictureEncoder:
    """Encodes pictures of ``data`` with ``host``, and with ``encoder`` what DINO sees.

    With ``data.cache`` or ``kept`` every picture keeps one crop and one degradation of each kind, which depend on the seed and
    the picture only: what the memory and the folder hold at a moment never changes a result.
    """

    def __init__(
        self,
        host: Host,
        encoder: DinoEncoder,
        data: Data,
        *,
        config: TrainConfig,
        kept: EncodedFolder | None = None,
    ) -> None:
        assert host.adapter is not None
        self.host, self.encoder, self.data, self.config, self.kept = host, encoder, data, config, kept
        self.settings = host.adapter.config.encode
        self.width = host.adapter.config.dino_width
        self._memory: OrderedDict[tuple[int, bool], EncodedPicture | None] = OrderedDict()

    def get(self, index: int, *, source: Source, generator: torch.Generator) -> EncodedPicture | None:
        """The picture for one row, from memory if there is one; None where the data skips it."""
        capacity = self.config.data.cache
        if not capacity and self.kept is None:
            return self.encode(index, source=source, generator=generator)
        key = (index, source == "weak")
        if key not in self._memory:
            name = self.data.names[
                index
            ]  # not the number, so that pictures that are added leave the others as they were
            fixed = generator_for(self.config.optimisation.seed, "remembered", name, key[1])
            make = partial(self.encode, index, source="weak" if key[1] else "usual", generator=fixed)
            told = [listing([self.data.entries[index]]), key[1]]
            self._memory[key] = make() if self.kept is None else self.kept.get(told, make)
            if len(self._memory) > max(1, 2 * capacity):
                self._memory.popitem(last=False)
        self._memory.move_to_end(key)
        return self._memory[key]

    def encode(self, index: int, *, source: Source, generator: torch.Generator) -> EncodedPicture | None:
        self.host.check_interrupt()
        sample = self.data.get(index, generator=generator)
        if sample is None:
            return None
        if source == "none" or sample.features is not None:
            return self.encoded(sample, None if source == "none" else sample.features)
        degraded = self.degraded(sample, weak=source == "weak", generator=generator)
        return self.encoded(sample, self.features(degraded), degraded=degraded)

    def encoded(self, sample: Sample, features: FeatureMap | None, *, degraded: Tensor | None = None) -> EncodedPicture:
        """degraded: [3, H, W], what DINO saw, encoded where rows begin there."""
        geometry, context, pooled = self.host.geometry, sample.context, sample.pooled
        for kind, text, width in (
            ("text tokens", context, geometry.context),
            ("a pooled text", pooled, geometry.vector),
        ):
            if text is not None and text.shape[-1] != width:
                raise ValueError(
                    f"{sample.name} brings {kind} {text.shape[-1]} wide, the model takes {width}: encode the captions with "
                    "this model's own text encoders, or take the files of other models away"
                )
        if features is not None and features.cls.shape[-1] != self.width:
            raise ValueError(
                f"{sample.name} brings features {features.cls.shape[-1]} wide, the adapter takes {self.width}: make them "
                "anew with `dinotile features`"
            )
        empty = Text.empty(geometry, guidance=self.config.model.guidance)
        return EncodedPicture(
            name=sample.name,
            latents=self._latents(sample.pixels),
            features=features,
            text=replace(
                empty,
                context=empty.context if context is None else context[None].float(),
                pooled=empty.pooled if pooled is None else pooled[None].float(),
                mask=None if sample.mask is None else sample.mask[None],
            ),
            source=None if degraded is None or not self.config.conditions.from_source else self._latents(degraded),
        )

    def degraded(self, sample: Sample, *, weak: bool, generator: torch.Generator) -> Tensor:
        """What DINO sees, [3, H, W]: the data's own source, or a degraded copy; the weak case degrades either."""
        if sample.source is not None and not weak:
            return sample.source
        pixels = sample.pixels if sample.source is None else sample.source
        return degrade(pixels, self.config.degradation, generator=generator, weak=weak)

    def features(self, pixels: Tensor) -> FeatureMap:
        """Of one picture [3, H, W], B = 1."""
        return self.encoder.encode(pixels[None], settings=self.settings)

    def _latents(self, pixels: Tensor) -> Tensor:
        return self.host.encode(pixels[None])[0].float().cpu()
