"""DINO tokens on their way through ComfyUI's conditioning: the host batches, crops and repeats them like its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...dino.feature_map import FeatureMap
from ...flux_patch.rows import DinoRow, Fractions
from ...flux_patch.schedule import Strength


@dataclass(frozen=True, eq=False)
class DinoCond:
    """An entry of ``model_conds``, with the interface of ``comfy.conds.CONDRegular``.

    The host calls ``process_cond`` with the area of the canvas that a conditioning covers, then concatenates the entries
    of a batch. The canvas size comes from the wrapper that *Patch FLUX with DINO* installs (``inject.CanvasWrapper``), so
    that tokens for an unpatched model are an error and not a conditioning without effect.
    """

    tokens: FeatureMap | None = None
    settings: Strength | None = None
    adapter: str = ""
    picture: tuple[float, float] | None = None  # latent height, width that the features cover; None: the canvas
    canvas: tuple[int, int] | None = None  # latent height, width
    rows: tuple[DinoRow, ...] = ()

    def on_canvas(self, height: int, width: int) -> DinoCond:
        return replace(self, canvas=(height, width))

    def process_cond(self, batch_size: int, area: Any = None, **kwargs: Any) -> DinoCond:
        if self.canvas is None:
            raise ValueError(
                f"the conditioning carries DINO tokens of adapter {self.adapter}, but the model is not patched with it: "
                f"put 'Patch FLUX with DINO' with the same adapter between the model loader and the sampler"
            )
        pictures = 1 if self.tokens is None else len(self.tokens.patches)
        if batch_size % pictures:
            raise ValueError(
                f"the features show {pictures} pictures, the latent holds {batch_size}: encode one picture, or as many as "
                f"the latent holds"
            )
        box = _fractions((*self.canvas, 0, 0) if area is None else area, self.picture or self.canvas)
        rows = tuple(DinoRow(self.tokens, image, box, self.settings) for image in range(batch_size))
        return replace(self, rows=rows)

    def can_concat(self, other: Any) -> bool:
        return isinstance(other, DinoCond)

    def concat(self, others: list[DinoCond]) -> tuple[DinoRow, ...]:
        return sum((other.rows for other in others), self.rows)

    def size(self) -> list[int]:
        """For the host's memory estimate: rows and widths of the tokens."""
        return [len(self.rows), 1 if self.tokens is None else self.tokens.patches.shape[-1]]


def _fractions(area: Any, picture: tuple[float, float]) -> Fractions:
    """The host's area (height, width, top, left) as fractions of the picture; a padded canvas reaches beyond 1."""
    height, width, top, left = area
    return top / picture[0], left / picture[1], height / picture[0], width / picture[1]
