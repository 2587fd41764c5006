"""Pictures that are always the same, seen with right, wrong and no conditions, and their velocity losses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ...hosts.host import Text
from ..core.random import generator_for
from ..data.sample import Sample
from .dropout import Kept
from .encode import EncodedPicture, PictureEncoder
from .step import TrainRow, make_row, training_losses

Mode = Literal["own", "swap", "text", "dino", "none", "retold"]


@dataclass(frozen=True)
class Conditions:
    """What of a picture is kept, and what of that another picture gives."""

    kept: Kept
    others: Literal["features", "text", "nothing"] = "nothing"


MODES: dict[Mode, Conditions] = {
    "own": Conditions("both"),
    "swap": Conditions("both", others="features"),
    "text": Conditions("text"),
    "dino": Conditions("dino"),
    "none": Conditions("none"),
    "retold": Conditions("both", others="text"),
}
LEVELS = (0.2, 0.5, 0.8)  # of the range of noise levels


@dataclass(frozen=True, eq=False)
class ValidationPicture:
    """A picture, its degraded source [3, H, W], and both as FLUX and DINO see them."""

    sample: Sample
    source: Tensor
    encoded: EncodedPicture


class Validation:
    """Looks at the weights as they are; the pictures are encoded when they are first needed."""

    def __init__(self, pictures: PictureEncoder) -> None:
        self.encoder, self.host, self.config = pictures, pictures.host, pictures.config
        self._pictures: list[ValidationPicture] = []

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Mean velocity loss of each mode; as in training, with the guidance that is learned taken off what was predicted."""
        size = self.config.optimisation.batch
        means: dict[str, float] = {}
        for mode, first in self.twins().items():
            if mode == first:
                rows = [row for i in range(len(self.pictures())) for row in self._rows(i, mode)]
                batches = [rows[start : start + size] for start in range(0, len(rows), size)]
                losses = [training_losses(self.host, batch, self.config)[0] for batch in batches]
                means[mode] = float(torch.cat(losses).mean())
            means[mode] = means[first]
        return means

    def seen(self, i: int, mode: Mode) -> EncodedPicture:
        """What FLUX sees in place of picture ``i``. Other features are the next picture's, and another text is that of the next
        picture which has one."""
        pictures = [picture.encoded for picture in self.pictures()]
        own, others = pictures[i], pictures[i + 1 :] + pictures[:i]
        if MODES[mode].others == "features":
            own = replace(own, features=others[0].features)
        if MODES[mode].others == "text":
            own = replace(own, text=next((other.text for other in others if _says(other.text)), others[0].text))
        return own.keeping(MODES[mode].kept)

    def twins(self) -> dict[Mode, Mode]:
        """Of each mode, the first one that shows the same of every picture: without texts ``own`` is also ``dino``."""
        first: dict[Mode, Mode] = {}
        for mode in MODES:
            alike: list[Mode] = [other for other in first if self._alike(mode, other)]
            first[mode] = alike[0] if alike else mode
        return first

    def _alike(self, mode: Mode, other: Mode) -> bool:
        pairs = [(self.seen(i, mode), self.seen(i, other)) for i in range(len(self.pictures()))]
        return all(one.features is two.features and _same(one.text, two.text) for one, two in pairs)

    def pictures(self) -> list[ValidationPicture]:
        """The last pictures of the data; ValueError where fewer than two can be used."""
        if not self._pictures:
            count = len(self.encoder.data)
            wanted = min(self.config.output.validation_pictures, count)
            last = [self._picture(index) for index in range(count - wanted, count)]
            self._pictures = [picture for picture in last if picture is not None]
            if len(self._pictures) < 2:
                raise ValueError(
                    f"{len(self._pictures)} of the last {wanted} pictures can be used, validation needs 2: "
                    f"raise validation_pictures or mend the data"
                )
        return self._pictures

    def _picture(self, index: int) -> ValidationPicture | None:
        encoder = self.encoder
        generator = generator_for(self.config.optimisation.seed, "validation", index)
        sample = encoder.data.get(index, generator=generator)
        if sample is None:
            return None
        source = encoder.degraded(sample, weak=False, generator=generator)
        features = sample.features or encoder.features(source)
        return ValidationPicture(sample, source, encoder.encoded(sample, features, degraded=source))

    def _rows(self, i: int, mode: Mode) -> list[TrainRow]:
        """The rows of one picture: the same windows, noise and noise levels in every mode."""
        config, picture = self.config, self.seen(i, mode)
        low, high = config.optimisation.sigma
        generator = generator_for(config.optimisation.seed, "validation rows", i)
        places: list[tuple[float, float | None]] = [(low + (high - low) * level, None) for level in LEVELS]
        if config.conditions.from_source:
            start = config.conditions.start[1]
            places += [(start * level, start) for level in LEVELS]
        return [
            make_row(
                picture,
                family=self.host.family,
                kept=MODES[mode].kept,
                sigma=sigma,
                start=start,
                tile=config.data.tile,
                generator=generator,
            )
            for sigma, start in places
        ]


def _says(text: Text) -> bool:
    return bool(text.context.any()) or bool(text.pooled.any())


def _same(one: Text, two: Text) -> bool:
    pairs = [(one.context, two.context), (one.pooled, two.pooled)]
    return one.mask is two.mask and all(torch.equal(*pair) for pair in pairs)
