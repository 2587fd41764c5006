"""DINO features of whole pictures, as they are or degraded first."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ...dino.compress.checkpoint import LoadedFlat
from ...dino.compress.features import compress, to_stored
from ...dino.encode import DinoEncoder, EncodeSettings
from ...dino.feature_map import FeatureMap
from ...files.fingerprints import fingerprint
from .degrade import degrade
from .pictures import decode
from .sample import Unusable
from .settings import DegradationSettings
from .side_files import FeatureInfo, compressed_files, feature_files, pack
from .sources import Entry


class DinoRecipe:
    """How the features of a picture are made. degradation: of the picture before DINO sees it, by ``seed`` and name.

    flat: the FlatDINO that compresses the patches, if any. ValueError for one that is of another encoder or other layers;
    pictures whose grid is another than its are left out.
    """

    def __init__(
        self,
        encoder: DinoEncoder,
        settings: EncodeSettings,
        degradation: DegradationSettings | None = None,
        seed: int = 0,
        flat: LoadedFlat | None = None,
    ) -> None:
        self.encoder, self.settings, self.degradation, self.seed = encoder, settings, degradation, seed
        self.name, self.flat = encoder.spec.family, flat
        whole, compressed = feature_files(self.name), compressed_files(self.name)
        self.files, other = (whole, compressed) if flat is None else (compressed, whole)
        self.replaced = other[:1]
        if flat is not None:
            spec, grid = encoder.spec, flat.config.grid
            flat.config.check(dino=spec.name, how=settings.how(spec), width=settings.width(spec), grid=grid)

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
        self._check_grid(*pixels.shape[1:])
        features = self.encoder.encode(pixels[None], settings=self.settings)
        info = info.model_copy(update={"image_size": features.image_size})
        return pack(self._kept(features), features.cls[0], info, family=self.name)

    def _kept(self, features: FeatureMap) -> Tensor:
        if self.flat is None:
            return features.patches[0]
        device = next(self.flat.module.parameters()).device
        return to_stored(self.flat, compress(self.flat, features, device=device).latents[0])

    def _check_grid(self, height: int, width: int) -> None:
        if self.flat is not None:
            found = self.settings.grid(height, width, self.encoder.spec)
            if found != tuple(self.flat.config.grid):
                rows, columns = self.flat.config.grid
                raise Unusable(f"with {found[0]} x {found[1]} patches, not {rows} x {columns}")

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
            flat="" if self.flat is None else self.flat.fingerprint,
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
