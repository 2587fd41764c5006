"""The pack's socket types. Their names are shared by all packs, so they carry our prefix."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "DINOTile"

Dino = io.Custom("DINOTILE_DINO")  # dino.DinoEncoder
Features = io.Custom("DINOTILE_FEATURES")  # dino.FeatureMap
Adapter = io.Custom("DINOTILE_ADAPTER")  # host.HostAdapter
Plan = io.Custom("DINOTILE_PLAN")  # tiling.TilePlan, in pixels
