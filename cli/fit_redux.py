"""``dinotile fit-redux``: an adapter without training FLUX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..files.writing import check_writable
from .bars import Bars
from .features import DINO, Data, Device, Layers, Seed, Side, load_encoder
from .outputs import OVERWRITE, check_free, check_inputs_stay


def fit_redux(
    data: Data,
    dino: Annotated[str, typer.Option(help=DINO)],
    siglip: Annotated[str, typer.Option(help="SigLIP's vision model: a .safetensors file, its folder or a hub name.")],
    redux: Annotated[str, typer.Option(help="FLUX.1 Redux: a .safetensors file, its folder or a hub name.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The adapter (.safetensors).")],
    layers: Layers = "2/3",
    side: Side = 0,
    grid: Annotated[int, typer.Option(help="Context tokens per side of a tile; Redux has 27, usually 4 to 14.")] = 9,
    mlp: Annotated[bool, typer.Option("--mlp", help="Go on from the linear solution with a hidden layer.")] = False,
    epochs: Annotated[int, typer.Option(help="At most so many for the hidden layer.")] = 20,
    held_out: Annotated[float, typer.Option(help="Share of the pictures that only the report sees.")] = 0.1,
    variant: Annotated[str, typer.Option(help="The FLUX that the adapter is for: demo, schnell or dev.")] = "dev",
    model_path: Annotated[
        str | None, typer.Option(help="Or a FLUX of your own: a .safetensors file, a diffusers folder or a hub name.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """Learn to turn DINO's patches into the tokens of FLUX.1 Redux; FLUX itself is not trained and not run."""
    check_inputs_stay([output], [*data, dino, siglip, redux, model_path])
    check_free([output], overwrite=overwrite)
    check_writable(output)
    from ..flux_patch.checkpoint import save_adapter
    from ..hosts.diffusers.load import read_geometry
    from ..hosts.diffusers.redux import load_teacher
    from ..hosts.diffusers.sources import model_files
    from ..training.redux.fit import FitSettings
    from ..training.redux.fit import fit_redux as fit
    from ..upscaling.device import find_device

    settings = FitSettings(layers, side, grid, held_out, mlp, epochs, seed)
    geometry = read_geometry(model_files(variant, model_path=model_path).flux)
    teacher = load_teacher(siglip, redux, device=find_device(device))
    encoder = load_encoder(dino, device)
    with Bars() as bars:
        adapter, report = fit(
            data,
            encoder=encoder,
            teacher=teacher,
            geometry=geometry,
            settings=settings,
            folder=output.parent,
            progress=bars,
        )
    save_adapter(adapter, output, trained=True)
    for line in report.lines():
        typer.echo(line)
    typer.echo(f"{output}: FLUX.1 Redux's licence also covers what is derived from it")
