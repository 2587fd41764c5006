"""Upscalers that look elsewhere: at another picture, at every tile alone, or nowhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from dinotile.dino.encode import DinoEncoder
from dinotile.dino.feature_map import FeatureMap
from dinotile.files.pixels import resize
from dinotile.flux_patch.rows import WHOLE, DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.tiling.plan import Box, plan_tiles
from dinotile.upscaling.joint import TileRow
from dinotile.upscaling.pipeline import Upscaler, _Guide
from dinotile.upscaling.settings import TOKEN, UpscaleSettings


class Elsewhere:
    """A DINO encoder that looks at another picture [1, 3, h, w] than it is given."""

    def __init__(self, encoder: DinoEncoder, pixels: Tensor) -> None:
        self.encoder, self.pixels = encoder, pixels
        self.spec, self.model = encoder.spec, encoder.model

    def encode(self, pixels: Tensor, **keywords: Any) -> FeatureMap:
        return self.encoder.encode(self.pixels, **keywords)


class TileUpscaler(Upscaler):
    """DINO sees every tile alone; with ``both`` its tokens are averaged with those cropped from the whole picture's."""

    def __init__(self, *models: Any, both: bool, **options: Any) -> None:
        super().__init__(*models, **options)
        self.both = both

    def _guide(self, pixels: Tensor, settings: UpscaleSettings, *, canvas: tuple[int, int]) -> Any:
        assert self.adapter is not None
        height, width = canvas
        shown = resize(pixels, height=height, width=width)
        whole, grid = self._project(pixels), self.adapter.config.grid
        plan, tiles = plan_tiles(height, width, tile=settings.tile, overlap=settings.overlap, grid=TOKEN), {}
        for box, cells in zip(plan.boxes, plan.scaled(vae_path.CELL).boxes, strict=True):
            own = self._project(shown[..., box.top : box.bottom, box.left : box.right])
            patches, cls = own.sample([WHOLE], grid)[:, 0], own.cls
            if self.both:
                patches, cls = (
                    (patches + whole.sample([box.fractions(height, width)], grid)[:, 0]) / 2,
                    (cls + whole.cls) / 2,
                )
            tiles[cells] = own.with_patches(patches, cls)
        return _Tiles(whole, tiles, Strength(settings.dino_strength))

    def _project(self, pixels: Tensor) -> FeatureMap:
        assert self.adapter is not None and self.dino is not None
        return self.adapter.project(self.dino.encode(pixels, settings=self.encode_settings))


class BlindUpscaler(Upscaler):
    """The adapter acts, but DINO shows it nothing: every tile gets the learned null, as dropped rows do in training."""

    def _guide(self, pixels: Tensor, settings: UpscaleSettings, *, canvas: tuple[int, int]) -> Any:
        found = super()._guide(pixels, settings, canvas=canvas)
        return None if found is None else _Blind(found.tokens, found.strength, canvas)


class _Tiles:
    """What ``engine._Guide`` is, with tokens of its own for every tile."""

    def __init__(self, tokens: FeatureMap, tiles: dict[Box, FeatureMap], strength: Strength) -> None:
        self.tokens, self.tiles, self.strength = tokens, tiles, strength
        self.memo: dict = {}

    def row(self, row: TileRow) -> DinoRow:
        return DinoRow(self.tiles[row.box], 0, WHOLE, self.strength)


class _Blind(_Guide):
    def row(self, row: TileRow) -> DinoRow:
        return replace(super().row(row), tokens=None)
