"""What the nodes share: the pack's socket types, and inputs that several nodes have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from comfy_api.latest import io
from torch import Tensor

from ..dino.feature_map import Scales
from ..flux_patch.families import FLUX1
from ..hosts.comfy.folders import picture_folders
from ..hosts.comfy.images import single_mask
from ..tiling.plan import FITS
from ..upscaling.limits import LIMITS
from ..upscaling.masks import check_mask
from ..upscaling.settings import UpscaleSettings

CATEGORY = "DINOTile"

# All packs share the names of socket types, so these carry our prefix.
Dino = io.Custom("DINOTILE_DINO")  # dino.DinoEncoder
Features = io.Custom("DINOTILE_FEATURES")  # dino.FeatureMap
Flat = io.Custom("DINOTILE_FLATDINO")  # hosts.comfy.compress.HostFlat
Compressed = io.Custom("DINOTILE_COMPRESSED")  # dino.compress.features.CompressedFeatures
Adapter = io.Custom("DINOTILE_ADAPTER")  # hosts.comfy.adapter.HostAdapter
Plan = io.Custom("DINOTILE_PLAN")  # tiling.TilePlan, in pixels
Box = io.Custom("BOUNDING_BOX")  # the host's, {x, y, width, height}
SEED = (0, 0, 0xFFFFFFFFFFFFFFFF)


def number(name: str, limits: tuple[float, ...], tooltip: str, **more: Any) -> io.Input:
    """A Float input where the default is one, else an Int. limits: default, least, most, and the step where it matters."""
    kind = io.Float if isinstance(limits[0], float) else io.Int
    named = dict(zip(("default", "min", "max", "step"), limits, strict=False))
    return kind.Input(name, tooltip=tooltip, **named, **more)


def setting(name: str, tooltip: str, *, step: float | None = None, **more: Any) -> io.Input:
    """A number of ``UpscaleSettings``, with its default and range."""
    usual, limit = getattr(UpscaleSettings, name), LIMITS[name]
    kind = type(usual)
    limits = (usual, kind(limit.least), kind(limit.most)) + (() if step is None else (step,))
    return number(name, limits, tooltip, **more)


def tile() -> io.Input:
    return setting(
        "tile",
        "Tile side in px, a multiple of 16 (SDXL 32, SD 1.5 64); see tile_fit. Usual: 1024; demo models: 256.",
        step=FLUX1.token,
    )


def overlap(tooltip: str) -> io.Input:
    return setting("overlap", tooltip, step=FLUX1.token)


def tile_fit() -> io.Input:
    return io.Combo.Input(
        "tile_fit",
        options=list(FITS),
        default="balanced",
        tooltip="balanced (usual): tile sides within 25 % of the one asked for, so that the fewest pixels are sampled. exact: "
        "tiles of that size, which overlap more.",
        optional=True,
    )


def moving() -> io.Input:
    return io.Boolean.Input(
        "moving",
        default=False,
        tooltip="Shift the tiles at every step, so that no place keeps a seam: then an overlap of 0 to 32 suffices. Usual: off.",
        optional=True,
    )


def color_match(options: Sequence[str], tooltip: str) -> io.Input:
    """options: of the ways of ``match_color``. tooltip: what follows that which is off."""
    told = f"The result in the colours of the enlarged source. off (usual). {tooltip}"
    return io.Combo.Input("color_match", options=list(options), default="off", tooltip=told, optional=True)


def upscaled() -> io.Output:
    return io.Image.Output(tooltip="The picture in exactly round(side x scale); RGBA where it came so.")


def layers() -> io.Input:
    return io.String.Input("layers", default="2/3", tooltip="DINO blocks, as in Extract DINO Patches. Usual: 2/3.")


def scales() -> io.Input:
    return io.Combo.Input(
        "scales",
        options=list(get_args(Scales)),
        default="averaged",
        tooltip="With crops 2, how the whole picture and its crops are joined: averaged (usual), or apart, side by side, for "
        "an adapter that was trained so.",
        optional=True,
    )


def encoding() -> list[io.Input]:
    """What else belongs to an adapter than ``adapter_inputs``, for nodes that had inputs behind those already."""
    return [
        number(
            "context_grid",
            (4, 1, 64),
            "Of context, pooled patches per side that join the text. Usual: 4.",
            optional=True,
        ),
        number(
            "crops", (1, 1, 2), "Crops per side that DINO sees, as in Extract DINO Patches. Usual: 1.", optional=True
        ),
        scales(),
    ]


def pictures(usual: str) -> io.Input:
    """A folder of them. usual: how many."""
    tooltip = "Folder of pictures (png, jpg, webp, tif; with its subfolders) in ComfyUI's input folder, or one that "
    return io.Combo.Input(
        "folder", options=picture_folders(), tooltip=f"{tooltip}models/dinotile_folders.txt lists. {usual}"
    )


def problem(check: Callable[..., object], *values: Any) -> bool | str:
    """For ``validate_inputs``, before anything runs: what ``check`` refuses, or True.

    A value that is None comes by a link, and is looked at when the node runs.
    """
    try:
        if None not in values:
            check(*values)
    except TypeError:  # of text where a number is due, which the host refuses itself
        return True
    except ValueError as error:
        return str(error)
    return True


def mask_over(mask: Tensor | None, height: int, width: int, *, name: str) -> Tensor | None:
    """A MASK over a picture of that height and width, as ``single_mask`` has it; ValueError for one of other proportions."""
    mask = single_mask(mask)
    if mask is not None:
        check_mask(mask[None, None], height, width, name=name)
    return mask


def patches_file(default: str) -> io.Input:
    """Where a trained adapter goes."""
    tooltip = "Folder and name below models/model_patches; a number is added, no file is replaced."
    return io.String.Input("filename_prefix", default=default, tooltip=tooltip)
