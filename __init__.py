"""DINOTile: FLUX upscaling tile by tile, guided by DINO features.

In ComfyUI this file is the node pack; elsewhere it is the Python package ``dinotile``, whose names below load on first use.
"""

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers see of the names below
    from .cli.remote.run import WorkflowResult as WorkflowResult
    from .cli.remote.run import run_workflow as run_workflow
    from .dino.encode import DinoEncoder as DinoEncoder
    from .dino.encode import EncodeSettings as EncodeSettings
    from .dino.feature_map import FeatureMap as FeatureMap
    from .dino.load import load_dino as load_dino
    from .files.pictures import Picture as Picture
    from .files.pictures import load_picture as load_picture
    from .files.pictures import save_picture as save_picture
    from .flux_patch.adapter import LoadedAdapter as LoadedAdapter
    from .flux_patch.adapter_config import AdapterConfig as AdapterConfig
    from .flux_patch.checkpoint import load_adapter as load_adapter
    from .flux_patch.checkpoint import new_adapter as new_adapter
    from .flux_patch.checkpoint import save_adapter as save_adapter
    from .flux_patch.families import plan_tiles as plan_tiles
    from .flux_patch.tokens import DinoTokens as DinoTokens
    from .tiling.plan import TilePlan as TilePlan
    from .upscaling.api import load_upscaler as load_upscaler
    from .upscaling.api import upscale as upscale
    from .upscaling.api import upscale_picture as upscale_picture
    from .upscaling.masks import Masks as Masks
    from .upscaling.masks import load_masks as load_masks
    from .upscaling.settings import UpscaleSettings as UpscaleSettings
    from .upscaling.settings import settings_for as settings_for
    from .upscaling.upscaler import Upscaler as Upscaler

    __version__: str

WEB_DIRECTORY = "./web"

_API = {
    "upscale": ".upscaling.api",
    "load_upscaler": ".upscaling.api",
    "upscale_picture": ".upscaling.api",
    "load_masks": ".upscaling.masks",
    "Masks": ".upscaling.masks",
    "run_workflow": ".cli.remote.run",
    "WorkflowResult": ".cli.remote.run",
    "Upscaler": ".upscaling.upscaler",
    "UpscaleSettings": ".upscaling.settings",
    "settings_for": ".upscaling.settings",
    "load_picture": ".files.pictures",
    "Picture": ".files.pictures",
    "save_picture": ".files.pictures",
    "load_dino": ".dino.load",
    "DinoEncoder": ".dino.encode",
    "EncodeSettings": ".dino.encode",
    "FeatureMap": ".dino.feature_map",
    "DinoTokens": ".flux_patch.tokens",
    "load_adapter": ".flux_patch.checkpoint",
    "save_adapter": ".flux_patch.checkpoint",
    "new_adapter": ".flux_patch.checkpoint",
    "LoadedAdapter": ".flux_patch.adapter",
    "AdapterConfig": ".flux_patch.adapter_config",
    "plan_tiles": ".flux_patch.families",
    "TilePlan": ".tiling.plan",
}


def __getattr__(name: str) -> object:
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
