"""The grid of a model's latents: the one place of what a cell and a token are in px."""

from __future__ import annotations

from dataclasses import dataclass

from ..tiling import plan
from ..tiling.plan import Fit, TilePlan


@dataclass(frozen=True, kw_only=True)
class Latents:
    """channels: of a cell, which is ``cell`` px wide. patch: cells that origins of tiles keep to, a transformer's tokens or what
    a UNet's deepest level sees as one. framed: latents are [B, C, 1, h, w], as those of models that also make videos."""

    channels: int
    cell: int
    patch: int
    framed: bool = False

    @property
    def token(self) -> int:
        """Side in px of a token, which tiles keep to."""
        return self.cell * self.patch

    def tokens(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of a latent of that height and width; a started token counts."""
        return -(-height // self.patch), -(-width // self.patch)

    def plan_tiles(self, height: int, width: int, *, tile: int, overlap: int, fit: Fit = "balanced") -> TilePlan:
        """``tiling.plan_tiles`` on the model's own grids, in px."""
        return plan.plan_tiles(height, width, tile=tile, overlap=overlap, grid=self.token, cell=self.cell, fit=fit)

    def check_plan(self, tiles: TilePlan) -> None:
        """ValueError for a plan on the grids of another model."""
        if (tiles.cell, tiles.grid) != (self.cell, self.token):
            raise ValueError(
                f"the tile plan is for cells of {tiles.cell} px and origins at multiples of {tiles.grid}, the model has cells of "
                f"{self.cell} px and needs multiples of {self.token}: connect the model to Plan Tiles too"
            )

    def __str__(self) -> str:
        frames = " in frames" if self.framed else ""
        return f"{self.channels} channels per {self.cell} px{frames}"
