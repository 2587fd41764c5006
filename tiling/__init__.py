"""Tile plans, blending windows and joint sampling of tiles."""

from ..hosts.comfy.tiles import TileRun, TileWrapper
from .plan import Box, TilePlan, canvas_size, plan_tiles
from .windows import tile_windows, window

__all__ = ["Box", "TilePlan", "TileRun", "TileWrapper", "canvas_size", "plan_tiles", "tile_windows", "window"]
