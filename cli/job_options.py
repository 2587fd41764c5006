"""The options of ``dinotile upscale`` about its job: what is read and written, in which size, what is kept, and by whom it is
done; their defaults stand in the command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..files.kinds import FORMATS
from .outputs import OVERWRITE

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="IN...", help=f"Pictures: {', '.join(FORMATS)}; files, folders, patterns, or lists, LIST.jsonl."
    ),
]
Output = Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="A file, or a folder (ending with /).")]
Store = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keep finished tiles there, so that the same command goes on where it was stopped; sequential.",
    ),
]
StoreSize = Annotated[
    float, typer.Option(help="The most that --store may hold, GiB; older pictures' tiles make room. Above 0.")
]
RedoTiles = Annotated[
    str,
    typer.Option(
        "--redo",
        metavar="TILES",
        help="Do these tiles of --store again, with other noise, and keep the others: numbers from 1 (3,4), boxes in px of the "
        "result (WIDTHxHEIGHT+LEFT+TOP), or a picture that is white there.",
    ),
]
Report = Annotated[Path | None, typer.Option(help="Write sizes, tiles, seconds, memory and versions as JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave out pictures whose output file exists already.")
]
KeepGoing = Annotated[
    bool,
    typer.Option("--keep-going", help="Do the others where pictures fail; exit code 1 and a table at the end."),
]
Manifest = Annotated[
    Path | None,
    typer.Option(
        metavar="JOBS.jsonl",
        help="Note there what became of each picture, a line each, and leave out what is done already, by the same settings and "
        "models, of the same input. Failed pictures are listed at the end, with exit code 1; the others are done.",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        metavar="STATUS",
        help="Of a manifest that is given as IN, the pictures that are so: failed, running (cut short) or done.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Share the pictures out to the workers of a Ray cluster (HOST:PORT, ray://HOST:PORT or auto); local: one that is "
        "started on this machine. Pictures, models and results lie at the same paths on all machines; --keep-going is meant.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Workers of --ray; 1 or more. Default: one per GPU of the cluster, or per core where it has none."
    ),
]
MaxMegapixels = Annotated[float, typer.Option(help="The largest picture that is read; above 0.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Tell sizes, tiles, and about how long and how much memory; load and write nothing."
    ),
]
Width = Annotated[int | None, typer.Option(help="Width of the result, px, in place of --scale; above 0.")]
Height = Annotated[int | None, typer.Option(help="Its height, px; with --width it fits into both; above 0.")]
Longest = Annotated[int | None, typer.Option(help="Its longer side, px; above 0.")]
Megapixels = Annotated[float | None, typer.Option(help="Its size in 10^6 px; above 0.")]
Compare = Annotated[
    bool, typer.Option("--compare", help="Also write OUT-compare.jpg: plain enlargement and result, side by side.")
]
NoRecipe = Annotated[
    bool,
    typer.Option(
        "--no-recipe", help="Do not say in the result's file how it was made (options, prompt, names of models)."
    ),
]
