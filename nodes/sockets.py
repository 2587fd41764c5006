"""What the nodes share: the pack's socket types, and inputs that several nodes have."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

CATEGORY = "DINOTile"

# All packs share the names of socket types, so these carry our prefix.
Dino = io.Custom("DINOTILE_DINO")  # dino.DinoEncoder
Features = io.Custom("DINOTILE_FEATURES")  # dino.FeatureMap
Adapter = io.Custom("DINOTILE_ADAPTER")  # hosts.comfy.adapter.HostAdapter
Plan = io.Custom("DINOTILE_PLAN")  # tiling.TilePlan, in pixels
SEED = (0, 0, 0xFFFFFFFFFFFFFFFF)


def number(name: str, limits: tuple[float, ...], tooltip: str, **more: Any) -> io.Input:
    """A Float input where the default is one, else an Int. limits: default, least, most, and the step where it matters."""
    kind = io.Float if isinstance(limits[0], float) else io.Int
    named = dict(zip(("default", "min", "max", "step"), limits, strict=False))
    return kind.Input(name, tooltip=tooltip, **named, **more)


def tile() -> io.Input:
    return number("tile", (1024, 64, 4096, 16), "Tile side in px, a multiple of 16. Usual: 1024; demo models: 256.")


def layers() -> io.Input:
    return io.String.Input("layers", default="2/3", tooltip="DINO blocks, as in Extract DINO Patches. Usual: 2/3.")


def pictures(usual: str) -> io.Input:
    """A folder of them. usual: how many."""
    tooltip = "Folder of pictures (png, jpg, webp, tif; with its subfolders): a full path, or a name in ComfyUI's input folder."
    return io.String.Input("folder", default="", tooltip=f"{tooltip} {usual}")


def patches_file(default: str) -> io.Input:
    """Where a trained adapter goes."""
    tooltip = "Folder and name below models/model_patches; a number is added, no file is replaced."
    return io.String.Input("filename_prefix", default=default, tooltip=tooltip)
