"""What the data of a training run is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...flux_patch.families import FLUX1
from ..core.config import FROM_TEXT, Count, Folder, Natural, Range, Settings, Share, wrong

Side = Annotated[int, Field(ge=FLUX1.token, le=2**16, multiple_of=FLUX1.token)]
Picture = Annotated[
    Side | Annotated[tuple[Side, ...], Field(min_length=1, max_length=2)],
    Field(json_schema_extra={"allowed": f"one side or [height, width] in multiples of {FLUX1.token}"}),
]
Factor = Annotated[float, Field(ge=1, le=64), FROM_TEXT]
Blur = Annotated[float, Field(ge=0, le=64), FROM_TEXT]
Quality = Annotated[float, Field(ge=1, le=100), FROM_TEXT]


class DataSettings(Settings):
    """The pictures. DINO sees the whole of one, FLUX a window of it. Sizes in px."""

    path: str | tuple[str, ...] = Field(default="", description="Folder, tar, or list or pattern of tars; needed.")
    picture: Picture = Field(default=(1024, 1024), description="Size of the whole. Usual: 512 to 2048.")
    tile: int = Field(
        default=512, ge=0, multiple_of=FLUX1.token, description="Side of the window, 0: the whole. Usual: 512."
    )
    flip: bool = Field(default=True, description="Whether pictures are mirrored at random, where `features` is empty.")
    features: Literal["", "dinov2", "dinov3"] = Field(default="", description="Of precomputed features; empty: none.")
    encoder: str = Field(
        default="",
        description="What made features that lie there without a .json: `dinov3-large last`; empty: none do.",
    )
    flat: str = Field(
        default="",
        description="FlatDINO file that restores what `dinotile features --compress` kept; empty: nothing is compressed.",
    )
    cache: Natural = Field(default=0, description="Pictures whose latents and features stay in memory, 0 for none.")
    encoded: Folder = Field(
        default="",
        description="Folder that keeps latents, features and text of every picture, with one crop; empty: none.",
    )
    windows: Count = Field(default=1, description="Windows cut from each picture that is drawn. Usual: 1 to 4.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole."""
        sides = (self.picture,) if isinstance(self.picture, int) else self.picture
        return sides[0], sides[-1]

    @model_validator(mode="after")
    def _tile_fits(self) -> DataSettings:
        if self.tile > min(self.size):
            raise ValueError(wrong("data.tile", self.tile, f"at most the picture's smaller side, {min(self.size)}"))
        if self.encoder and not self.features:
            raise ValueError("data.encoder says what made data.features, and they are not named: set both or neither")
        if self.flat and not self.features:
            raise ValueError("data.flat restores data.features, and they are not named: set both or neither")
        return self


class DegradationSettings(Settings):
    """How the source of DINO's features is made worse than the picture; each value is drawn from its range."""

    scale: Range[Factor] = Field(default=(1.0, 4.0), description="Shrink factor.")
    blur: Range[Blur] = Field(default=(0.0, 2.0), description="Standard deviation of a Gaussian in px.")
    noise: Range[Share] = Field(default=(0.0, 0.05), description="Standard deviation of noise, on pixels of 0 to 1.")
    jpeg: Range[Quality] = Field(default=(50.0, 95.0), description="Quality of JPEG.")
    weak_scale: Range[Factor] = Field(default=(4.0, 12.0), description="Shrink factor of the share `conditions.weak`.")
