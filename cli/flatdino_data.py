"""What commands of ``dinotile flatdino`` are told alike, and the patches that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .features import DINO

if TYPE_CHECKING:
    import torch

    from ..training.flatdino.patches import Patches

Flat = Annotated[Path, typer.Argument(metavar="FLAT", help="A FlatDINO file, as `train` writes it.")]
OwnDino = Annotated[str, typer.Option(help=DINO)]
Stored = Annotated[str, typer.Option(help="Take stored features of dinov2 or dinov3 instead of --dino.")]
Maker = Annotated[str, typer.Option(help='What made stored features that do not say: "dinov3-large last".')]


SOURCE = ("dino", "features", "encoder", "layers", "side")  # options that say what patches are taken


def patches_of(data: list[str], options: Mapping[str, Any]) -> tuple[torch.device, Patches]:
    """The device, and the patches of ``data``. options: all of the command's, by name."""
    from ..dino.load import load_dino
    from ..hosts.diffusers.sources import dino_path
    from ..training.core.config import from_mapping
    from ..training.flatdino.run import open_patches
    from ..training.flatdino.settings import FlatRun
    from ..upscaling.device import find_device

    place = find_device(options["device"])
    told = {name: options[name] for name in SOURCE}
    settings = from_mapping({"data": {**told, "path": data}}, FlatRun).data
    encoder = load_dino(dino_path(settings.dino), device=place) if settings.dino else None
    return place, open_patches(settings, settings.path, encoder=encoder)
