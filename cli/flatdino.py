"""``dinotile flatdino``: compress DINO features into few tokens. Nothing heavy is imported before a name has been read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..files.writing import check_writable
from .bars import Bars
from .features import Data, Device, Layers, Side
from .flatdino_data import Flat, Maker, OwnDino, Stored, patches_of
from .flatdino_generate import sample, train_generator
from .flatdino_look import evaluate, interpolate, probe, redundancy, tokens
from .flatdino_pixels import train_decoder
from .flatdino_train import train
from .home import at_home
from .outputs import OVERWRITE, check_free, check_inputs_stay

if TYPE_CHECKING:
    from ..training.flatdino.patches import Patches

flatdino = typer.Typer(no_args_is_help=True, help="Compress DINO's patches into few tokens (FlatDINO), and judge that.")
for command in (train, sample, evaluate, probe, tokens, interpolate, redundancy):
    flatdino.command()(at_home(command))
flatdino.command(name="train-generator")(at_home(train_generator))
flatdino.command(name="train-decoder")(at_home(train_decoder))


@flatdino.command(name="compute-stats")
@at_home
def compute_stats(
    flat: Flat,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The statistics (.safetensors).")],
    dino: OwnDino = "",
    features: Stored = "",
    encoder: Maker = "",
    layers: Layers = "last",
    side: Side = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """Mean and variance of the latents of a data set, by which what generates them scales them."""
    options = locals()
    check_inputs_stay([output], [flat, *data, dino])
    check_free([output], overwrite=overwrite)
    check_writable(output)
    from ..dino.compress.checkpoint import load_flat
    from ..dino.compress.statistics import save_statistics
    from ..training.flatdino.stats import compute_statistics

    place, source = patches_of(data, options)
    loaded = load_flat(flat)
    with Bars() as bars:
        statistics = compute_statistics(loaded, source, device=place, progress=bars)
    save_statistics(statistics, output, flat=loaded.fingerprint)
    typer.echo(f"{output}: of {statistics.pictures} pictures{_left_out(source)}")


def _left_out(source: Patches) -> str:
    return f", {source.skipped.total()} left out ({source.skipped})" if source.skipped else ""
