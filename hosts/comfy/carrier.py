"""DINO rows on their way through ComfyUI's conditioning: the host batches, crops and repeats them like its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...flux_patch.guide import Guide
from ...flux_patch.rows import DinoRow
from ...tiling.plan import Box


@dataclass(frozen=True, eq=False)
class DinoCond:
    """An entry of ``model_conds``, with the interface of ``comfy.conds.CONDRegular``.

    The host calls ``process_cond`` with the area of the canvas that a conditioning covers, then concatenates the entries
    of a batch. The canvas size comes from the wrapper that *Patch FLUX with DINO* installs (``inject.CanvasWrapper``), so
    that tokens for an unpatched model are an error and not a conditioning without effect.
    """

    guide: Guide | None = None
    adapter: str = ""
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
        if self.guide is None:
            return replace(self, rows=(DinoRow(),) * batch_size)
        pictures = self.guide.pictures
        if batch_size % pictures:
            raise ValueError(
                f"the features show {pictures} pictures, the latent holds {batch_size}: encode one picture, or as many as "
                f"the latent holds"
            )
        box = Box(0, 0, *self.canvas)
        if area is not None:  # sizes, then starts, of all axes: of frames too where there are some
            half = len(area) // 2
            box = Box(*area[half:][-2:], *area[:half][-2:])
        return replace(self, rows=tuple(self.guide.row(image, box, canvas=self.canvas) for image in range(batch_size)))

    def can_concat(self, other: Any) -> bool:
        return isinstance(other, DinoCond)

    def concat(self, others: list[DinoCond]) -> tuple[DinoRow, ...]:
        return sum((other.rows for other in others), self.rows)

    def size(self) -> list[int]:
        """For the host's memory estimate: rows and widths of the tokens."""
        widths = [row.tokens.patches.shape[-1] for row in self.rows if row.tokens is not None]
        return [len(self.rows), max(widths, default=1)]
