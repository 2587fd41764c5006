"""DINOTile: FLUX upscaling tile by tile, guided by DINO features.

In ComfyUI this file is the node pack; elsewhere it is the Python package ``dinotile``.
"""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    try:
        from .nodes import DinoTileExtension  # here, so that the package imports without ComfyUI
    except Exception:
        logging.getLogger("dinotile").exception(
            "The DINOTile nodes could not be imported"
        )  # the host prints no traceback
        raise
    return DinoTileExtension()
