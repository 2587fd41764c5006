"""Who looks at a picture for its tiles: DINO at the whole of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..dino.encode import DinoEncoder, EncodeSettings
from ..dino.feature_map import FeatureMap
from ..flux_patch.guide import PictureGuide
from ..flux_patch.latents import Latents
from ..flux_patch.schedule import Strength
from ..flux_patch.tokens import DinoTokens
from ..hosts.finite import finite
from ..hosts.host import Host
from ..tiling.plan import TilePlan
from .settings import DINO_ALONE, UpscaleSettings

Project = Callable[[FeatureMap], DinoTokens]


@dataclass(frozen=True)
class WholePicture:
    """``pipeline.MakeGuide``: one pass over the whole picture; every tile gets the tokens of its own region."""

    encoder: DinoEncoder
    project: Project
    settings: EncodeSettings
    strength: Strength
    latents: Latents

    def __call__(self, pixels: Tensor, *, plan: TilePlan, size: tuple[int, int]) -> PictureGuide:
        return self.guide(self.tokens(pixels), size=size)

    def tokens(self, pixels: Tensor) -> DinoTokens:
        """Of pictures [B, 3, h, w] in 0..1."""
        tokens = self.project(self.encoder.encode(pixels, settings=self.settings, told=True))
        finite(tokens.patches, "dino")
        finite(tokens.cls, "dino")
        return tokens

    def guide(self, tokens: DinoTokens | None, *, size: tuple[int, int]) -> PictureGuide:
        """For a result of that height and width in px."""
        height, width = (side / self.latents.cell for side in size)
        return PictureGuide(tokens, self.strength, (height, width))

    def describe(self) -> dict[str, Any]:
        return {"model": self.encoder.spec.name, "layers": self.settings.how(self.encoder.spec)}


def check_pair(encoder: object | None, adapter: object | None, *, uses: Sequence[str] = ()) -> None:
    """ValueError where only one of the two is there: an adapter acts through DINO, and DINO through an adapter, or through
    what else uses it. uses: the settings that do."""
    if encoder is None and adapter is not None:
        raise ValueError(
            "an adapter was given without a DINO model: FLUX is guided by both together, give both or neither"
        )
    if encoder is not None and adapter is None and not uses:
        raise ValueError(
            f"a DINO model was given without an adapter: give both or neither, or set {' or '.join(DINO_ALONE)}, which needs none"
        )


def check_guide(settings: UpscaleSettings, encoder: object | None) -> None:
    """ValueError for settings that look with DINO where there is none."""
    for name in settings.dino_uses if encoder is None else ():
        value = getattr(settings, name)
        raise ValueError(f"{name} {value} {DINO_ALONE[name]}: give a DINO model, or set {name} to 0")


def whole_picture(
    host: Host,
    encoder: DinoEncoder,
    project: Project,
    *,
    strength: float,
    layers: str = "",
    mask: Tensor | None = None,
) -> WholePicture:
    """For the adapter of ``host``, with its encode settings. layers: the adapter's where empty; ValueError for another DINO
    model or other layers. mask: [h, w] in 0..1 over the picture, where DINO acts; None: everywhere."""
    assert host.adapter is not None
    settings = host.adapter.config.encode
    settings = replace(settings, layers=layers or settings.layers)
    host.adapter.module.check_dino(encoder.spec, settings)
    return WholePicture(encoder, project, settings, Strength(strength, mask=mask), host.latents)
