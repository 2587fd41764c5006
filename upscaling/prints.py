"""What tells the models of an upscaler, and the words it was told, from others: for reports, recipes and stores of tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..dino.encode import DinoEncoder
from ..files.fingerprints import fingerprint, heads_fingerprint
from ..flux_patch.adapter import LoadedAdapter
from ..hosts.diffusers.upscale_model import UpscaleModel
from ..hosts.host import Text

PARTS = (
    "flux",
    "vae",
    "decoder",
    "controlnet",
    "upscale_model",
    "adapter",
    "dino",
    "redux",
)  # jobs of stores know them so
BY_TENSORS = (
    "flux",
    "vae",
    "decoder",
    "controlnet",
    "redux",
)  # those that are told from others by tensors' first numbers


class Prints:
    """Of the models as they were before any moved.

    models: by the names of ``PARTS``. DINO, adapter and upscale model are told from others by what their files say.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module | None],
        *,
        dino: DinoEncoder | None,
        adapter: LoadedAdapter | None,
        upscale_model: UpscaleModel | None,
    ) -> None:
        self.made_of = [
            None if module is None else heads_fingerprint(module.state_dict())
            for module in (models[name] for name in PARTS)
        ]
        self.by_file: dict[str, Any] = {}
        if dino is not None:
            self.by_file["dino"] = {"model": dino.spec.name, "fingerprint": dino.fingerprint}
        if adapter is not None:
            self.by_file["adapter"] = {"fingerprint": adapter.fingerprint}
        if upscale_model is not None:
            self.by_file["upscale_model"] = upscale_model.describe()

    def of_all(self, text: Text, negative: Text | None, *, dino_layers: str) -> str:
        """Of all that a picture depends on, but for itself and the settings."""
        return fingerprint(f"{self.made_of} {_words(text, negative)} {dino_layers} {self.by_file}".encode())

    def described(
        self, text: Text, negative: Text | None, *, device: torch.device, dtype: torch.dtype
    ) -> dict[str, Any]:
        """What a report says of the models and where they compute."""
        made_of = dict(zip(PARTS, self.made_of, strict=True))
        alike = {**{name: made_of[name] for name in BY_TENSORS}, "text": _words(text, negative)}
        parts = {name: {"fingerprint": made} for name, made in alike.items() if made is not None}
        place = f"{device.type}, {str(dtype).removeprefix('torch.')}"
        return {"weights": parts | self.by_file, "computed_on": place}


def _words(text: Text, negative: Text | None) -> str:
    words = {}
    for name, told in (("text", text), ("negative", negative)):
        parts = {} if told is None else {"context": told.context, "pooled": told.pooled, "mask": told.mask}
        words |= {
            f"{name}/{key}/{row}": numbers
            for key, part in parts.items()
            if part is not None
            for row, numbers in enumerate(part.flatten(0, -2))
        }
    return heads_fingerprint(words)
