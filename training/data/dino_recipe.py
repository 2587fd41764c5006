"""DINO features of whole pictures, as they are or degraded first."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import torch

from ...dino.encode import DinoEncoder, EncodeSettings
from ...files.fingerprints import fingerprint
from .degrade import degrade
from .feature_files import FeatureInfo, feature_files, pack, read_info
from .pictures import decode, picture_of
from .settings import DegradationSettings
from .sources import Entry


@dataclass(frozen=True)
class DinoRecipe:
    """How the features of a picture are made. degradation: of the picture before DINO sees it, by ``seed`` and name."""

    encoder: DinoEncoder
    settings: EncodeSettings
    degradation: DegradationSettings | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        return self.encoder.spec.family

    @property
    def files(self) -> tuple[str, ...]:
        return feature_files(self.encoder.spec.family)

    def make(self, entry: Entry) -> dict[str, bytes] | None:
        """The files to write by ending, the json last; None where exactly these features of the picture are there."""
        content = picture_of(entry).read()
        if self._has(entry, content):
            return None
        pixels = decode(content)  # [3, H, W]
        if self.degradation is not None:
            digest = hashlib.sha256(f"{self.seed}/{entry.name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            pixels = degrade(pixels, self.degradation, generator=generator)
        features = self.encoder.encode(pixels[None], settings=self.settings)
        info = replace(self._info(content), image_size=features.image_size)
        return pack(features, info, family=self.encoder.spec.family)

    def _info(self, content: bytes) -> FeatureInfo:
        """Of a picture file, its size left open."""
        degraded = {} if self.degradation is None else {**self.degradation.model_dump(), "seed": self.seed}
        return FeatureInfo(
            spec=self.encoder.spec.name,
            layers=self.settings.canonical(self.encoder.spec),
            encoder=self.encoder.fingerprint,
            picture=fingerprint(content),
            image_size=(0, 0),
            side=self.settings.side or self.encoder.spec.max_side,
            crops=self.settings.crops,
            degraded=json.loads(json.dumps(degraded)),  # tuples become what they are when they are read again
        )

    def _has(self, entry: Entry, content: bytes) -> bool:
        if any(ending not in entry.members for ending in self.files):
            return False
        try:
            known = read_info(entry.members[self.files[-1]].read())
        except ValueError:
            return False
        return replace(known, image_size=(0, 0)) == self._info(content)
