"""DINO features of whole pictures, as they are or degraded first."""

from __future__ import annotations

import hashlib

import torch

from ...dino.encode import DinoEncoder, EncodeSettings
from ...files.fingerprints import fingerprint
from .degrade import degrade
from .pictures import decode
from .settings import DegradationSettings
from .side_files import FeatureInfo, feature_files, pack
from .sources import Entry


class DinoRecipe:
    """How the features of a picture are made. degradation: of the picture before DINO sees it, by ``seed`` and name."""

    def __init__(
        self,
        encoder: DinoEncoder,
        settings: EncodeSettings,
        degradation: DegradationSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.encoder, self.settings, self.degradation, self.seed = encoder, settings, degradation, seed
        self.name = encoder.spec.family
        self.files = feature_files(self.name)

    def make(self, entry: Entry) -> dict[str, bytes] | None:
        """The files to write by ending, the json last; None where exactly these features of the picture are there."""
        content = entry.picture().read()
        info = self._info(content)
        if self._known(entry) == info:
            return None
        pixels = decode(content)  # [3, H, W]
        if self.degradation is not None:
            digest = hashlib.sha256(f"{self.seed}/{entry.name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            pixels = degrade(pixels, self.degradation, generator=generator)
        features = self.encoder.encode(pixels[None], settings=self.settings)
        return pack(features, info.model_copy(update={"image_size": features.image_size}), family=self.name)

    def _info(self, content: bytes) -> FeatureInfo:
        """Of a picture file, its size left open."""
        return FeatureInfo(
            spec=self.encoder.spec.name,
            layers=self.settings.canonical(self.encoder.spec),
            encoder=self.encoder.fingerprint,
            picture=fingerprint(content),
            image_size=(0, 0),
            side=self.settings.side or self.encoder.spec.max_side,
            crops=self.settings.crops,
            scales=self.settings.scales,
            degraded={}
            if self.degradation is None
            else {**self.degradation.model_dump(mode="json"), "seed": self.seed},
        )

    def _known(self, entry: Entry) -> FeatureInfo | None:
        """Of the files that are there, the picture's size left open; None where they are not whole."""
        if any(ending not in entry.members for ending in self.files):
            return None
        try:
            known = FeatureInfo.model_validate_json(entry.members[self.files[-1]].read())
        except ValueError:
            return None
        return known.model_copy(update={"image_size": (0, 0)})
