"""``dinotile features``: what training needs of its pictures, computed once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..files.options import check_acting
from .bars import Bars

if TYPE_CHECKING:
    from ..dino.encode import DinoEncoder

Data = Annotated[
    list[str], typer.Argument(metavar="DATA...", help="A folder of pictures, or tars (WebDataset naming).")
]
DINO = "DINOv2 or DINOv3: a .safetensors file, its folder or a hub name."
Layers = Annotated[str, typer.Option(help='Blocks to take: "last", a fraction such as "2/3", or numbers "9,18".')]
Side = Annotated[int, typer.Option(help="Long side that DINO sees, px; 0 for its own, usually 518 to 1036.")]
Seed = Annotated[int, typer.Option(help="Seed of whatever is random.")]
Device = Annotated[str, typer.Option(help="auto, cuda, cuda:1, mps or cpu.")]


def features(
    data: Data,
    dino: Annotated[str | None, typer.Option(help=DINO)] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Encode the captions, NAME.txt: a whole FLUX.1 or FLUX.2 pipeline, folder or hub name.",
        ),
    ] = None,
    text_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of a caption, 1 to 512; for dev 512. Default: 256 of FLUX.1, 512 of FLUX.2."),
    ] = None,
    mask_padding: Annotated[
        bool,
        typer.Option("--mask-padding", help="With --text: also which T5 tokens are padding, for training without."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Of tars: the folder for the new ones. Folders need none.")
    ] = None,
    layers: Layers = "2/3",
    side: Side = 0,
    crops: Annotated[int, typer.Option(help="1: the whole picture; 2: with 2 x 2 crops of it.")] = 1,
    scales: Annotated[
        str, typer.Option(help="Picture and crops: averaged, or apart, for twice the width.")
    ] = "averaged",
    degrade: Annotated[
        bool, typer.Option("--degrade", help="Of degraded pictures (blur, shrink, noise, JPEG), as an upscaler meets.")
    ] = False,
    compress: Annotated[
        Path | None,
        typer.Option(metavar="FLAT", help="Keep what this FlatDINO makes of the patches, of its layers and grid."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only count what is there, of each DATA apart, such as training and validation sets."
        ),
    ] = False,
) -> None:
    """Compute DINO features and text of training pictures once; what is there already is kept."""
    options = locals()
    usual = {name: parameter.default for name, parameter in inspect.signature(features).parameters.items()}
    check_acting(
        [name for name in usual if options[name] != usual[name]],
        ("without check", not check, tuple(name for name in usual if name not in ("data", "check"))),
        ("with text", text is not None, ("text_tokens", "mask_padding")),
        ("with dino", dino is not None, ("layers", "side", "crops", "scales", "degrade", "compress", "seed")),
        ("without compress", compress is None, ("layers", "side", "crops", "scales")),
    )
    if check:
        return print_availability(data)
    if dino is None and text is None:
        raise ValueError("neither a DINO nor text encoders are given: give --dino, --text or both")
    import torch

    from ..dino.compress.checkpoint import load_flat
    from ..dino.compress.features import settings_for
    from ..dino.encode import EncodeSettings
    from ..hosts.diffusers.text import load_text_encoder
    from ..training.data.dino_recipe import DinoRecipe
    from ..training.data.features import Recipe, precompute
    from ..training.data.settings import DegradationSettings
    from ..training.data.sources import find_paths
    from ..training.data.text_recipe import TextRecipe
    from ..upscaling.device import find_device

    find_paths(data)  # before models are loaded
    recipes: list[Recipe] = []
    if dino is not None:
        degradation = DegradationSettings() if degrade else None
        settings = EncodeSettings(side=side, layers=layers, crops=crops, scales=scales)  # type: ignore[arg-type]
        flat = None if compress is None else load_flat(compress, device=find_device(device))
        maker = load_encoder(dino, device)
        if flat is not None:
            settings = settings_for(flat.config, maker.spec)
        recipes.append(DinoRecipe(maker, settings, degradation, seed, flat))
    if text is not None:
        encoder = load_text_encoder(text, device=find_device(device), dtype=torch.bfloat16)  # FLUX's own
        recipes.append(TextRecipe(encoder, tokens=text_tokens, masked=mask_padding))
    with Bars() as bars:
        reports = precompute(data, recipes, output=output, progress=bars)
    for report in reports:
        line = f"{report.name}: {report.computed} computed, {report.kept} kept, {report.skipped.total()} skipped"
        typer.echo(f"{line} ({report.skipped})" if report.skipped else line)


def print_availability(data: Sequence[str]) -> None:
    from ..training.data.availability import availability

    for path in data:
        with Bars() as bars:
            found = availability(path, progress=bars)
        typer.echo(f"{path}: {found.samples} samples")
        for report in found.reports:
            without = f", {report.skipped.total()} without ({report.skipped})" if report.skipped else ""
            typer.echo(f"  {report.name}: {report.kept}{without}")
        if found.compressed:
            typer.echo(f"  {found.compressed} features are compressed: name the FlatDINO in data.flat")
        if found.plain:
            typer.echo(f"  {found.plain} features do not say what made them: name that in data.encoder")


def load_encoder(dino: str, device: str) -> DinoEncoder:
    from ..dino.load import load_dino
    from ..hosts.diffusers.sources import dino_path
    from ..upscaling.device import find_device

    return load_dino(dino_path(dino), device=find_device(device))
