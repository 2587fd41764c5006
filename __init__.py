"""DINOTile: FLUX upscaling tile by tile, guided by DINO features.

In ComfyUI this file is the node pack; elsewhere it is the Python package ``dinotile``, whose names below load on first use.
"""

import importlib
import logging

WEB_DIRECTORY = "./web"

_API = {
    "upscale": ".upscaling.api",
    "load_upscaler": ".upscaling.api",
    "upscale_picture": ".upscaling.api",
    "run_workflow": ".cli.remote.run",
    "Upscaler": ".upscaling.upscaler",
    "UpscaleSettings": ".upscaling.settings",
    "settings_for": ".upscaling.settings",
    "load_picture": ".files.pictures",
    "save_picture": ".files.pictures",
    "load_dino": ".dino.load",
    "EncodeSettings": ".dino.encode",
    "FeatureMap": ".dino.feature_map",
    "DinoTokens": ".flux_patch.tokens",
    "load_adapter": ".flux_patch.checkpoint",
    "save_adapter": ".flux_patch.checkpoint",
    "new_adapter": ".flux_patch.checkpoint",
    "AdapterConfig": ".flux_patch.adapter",
    "plan_tiles": ".flux_patch.families",
    "TilePlan": ".tiling.plan",
}


def __getattr__(name):
    if name == "__version__":
        from importlib.metadata import version

        return version("dinotile")
    if name in _API:
        return getattr(importlib.import_module(_API[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


async def comfy_entrypoint():
    try:
        from .nodes import DinoTileExtension  # here, so that the package imports without ComfyUI
    except Exception:  # the host logs no traceback
        logging.getLogger("dinotile").exception("The DINOTile nodes could not be imported")
        raise
    return DinoTileExtension()
