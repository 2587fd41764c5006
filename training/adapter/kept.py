"""Encoded training pictures, and a folder in which they stay from one epoch, or one run, to the next."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...dino.feature_map import FeatureMap
from ...files.errors import BROKEN
from ...files.fingerprints import fingerprint
from ...files.weights import read_weights, write_weights
from ...files.writing import make_folder, remove_abandoned
from ...hosts.host import Text
from .dropout import Kept

HOUR = 3600  # seconds; a picture is written in far fewer
FEATURES = ("spec", "layers", "image_size", "crops", "scales")
log = logging.getLogger("dinotile")


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """latents: [C, h, w] of the whole picture. features: B = 1, None where DINO was not asked for. source: latents of the
    degraded picture that DINO saw, None where no row begins there."""

    name: str
    latents: Tensor
    features: FeatureMap | None
    text: Text  # B = 1, zeros where the data has none
    source: Tensor | None = None  # [C, h, w]

    def keeping(self, kept: Kept) -> EncodedPicture:
        """With the conditions that are kept: no features, and a text of zeros of the same size, in place of the others."""
        return replace(
            self,
            features=self.features if kept in ("dino", "both") else None,
            text=self.text if kept in ("text", "both") else _silent(self.text),
        )


def _silent(text: Text) -> Text:
    return replace(text, context=torch.zeros_like(text.context), pooled=torch.zeros_like(text.pooled), mask=None)


class EncodedFolder:
    """Files of pictures in half precision. made_by: everything but the picture that decides what they hold."""

    def __init__(self, folder: Path, *, made_by: Any) -> None:
        self.folder, self.made_by = folder, made_by
        make_folder(folder)
        remove_abandoned(folder, seconds=HOUR)

    def get(self, told: Any, make: Callable[[], EncodedPicture | None]) -> EncodedPicture | None:
        """The picture that ``told`` describes, as its file holds it; ``make`` is asked where there is none that can be read."""
        path = self.folder / f"{fingerprint(json.dumps([self.made_by, told]).encode())}.safetensors"
        try:
            if path.is_file():
                return _read(path)
        except BROKEN:  # as a machine that went down leaves it
            log.warning("%s is damaged: its picture is encoded again", path)
        picture = make()
        if picture is None:
            return None
        write_weights(path, _tensors(picture), {"picture": json.dumps(_about(picture))})
        return _read(path)


def _tensors(picture: EncodedPicture) -> dict[str, Tensor]:
    text, features = picture.text, picture.features
    held = {"latents": picture.latents, "source": picture.source, "context": text.context, "pooled": text.pooled}
    if features is not None:
        held |= {"patches": features.patches, "cls": features.cls}
    found = {name: tensor.half() for name, tensor in held.items() if tensor is not None}
    return found if text.mask is None else {**found, "mask": text.mask}


def _about(picture: EncodedPicture) -> dict[str, Any]:
    features = {} if picture.features is None else {name: getattr(picture.features, name) for name in FEATURES}
    return {"name": picture.name, "guidance": picture.text.guidance, "features": features}


def _read(path: Path) -> EncodedPicture:
    tensors, metadata = read_weights(path)
    about = json.loads(metadata["picture"])
    mask = tensors.pop("mask", None)
    held = {name: tensor.float() for name, tensor in tensors.items()}
    features = about["features"]
    if features:
        features["image_size"] = tuple(features["image_size"])
        features = FeatureMap(held["patches"], held["cls"], **features)
    return EncodedPicture(
        name=about["name"],
        latents=held["latents"],
        features=features or None,
        text=Text(held["context"], held["pooled"], about["guidance"], mask),
        source=held.get("source"),
    )
