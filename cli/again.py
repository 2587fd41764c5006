"""``dinotile again``: a result once more, by what its file says of how it was made."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ..files.kinds import MEGAPIXELS
from ..files.progress import Progress
from ..files.writing import abandoned, check_writable, hold
from .bars import followed
from .batch import Batch, upscale_batch
from .kept import Store
from .outputs import OVERWRITE, check_free, check_inputs_stay
from .upscale import PATHS

FOLDER = ".dinotile-again-"  # how its name begins
LOCK = "in-use"  # in it, held while the run lives
FRESH = 60  # seconds: a run may have made its own and not held it yet


def again(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A picture that dinotile upscale wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where the new one goes.")],
    source: Annotated[
        Path | None,
        typer.Option(help="The picture that it was made from. Default: of its name, beside RESULT or here."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
    max_megapixels: Annotated[float, typer.Option(help="The largest picture that is read.")] = MEGAPIXELS,
) -> None:
    """Make a result of dinotile upscale again from its source, with the same models and settings, and tell what differs."""
    if not result.is_file():
        raise ValueError(f"there is no picture {result}: give a result of dinotile upscale")
    from ..files.fingerprints import file_fingerprint
    from ..files.pictures import load_picture
    from ..upscaling.recipe import check_masks, check_memory, options_of, other_than, recipe_of, redone_of

    recipe = recipe_of(result, max_megapixels=max_megapixels)
    redone = redone_of(recipe, result)
    check_memory(recipe, result)
    name = Path(recipe["source"]["file"]).name
    places = [source] if source else [result.with_name(name), Path(name)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(f"the source {name} is not beside {result}: give it with --source")
    if file_fingerprint(found) != recipe["source"].get("fingerprint"):
        raise ValueError(
            f"{found} is another picture than the one that {result} was made from: give that with --source"
        )
    options = options_of(recipe)
    check_inputs_stay([output], [result, found, *(options.get(name) for name in PATHS)])
    check_free([output], overwrite=overwrite)
    check_masks(recipe, options, max_megapixels=max_megapixels)
    before = load_picture(result, max_megapixels=max_megapixels).pixels
    batch = Batch([(found, output)], max_megapixels=max_megapixels)
    with tiles_for(output, redone) as store:
        batch.store = store
        followed(lambda bars: upscale_batch(batch, options, progress=living(store, bars)))
    for line in other_than(recipe, recipe_of(output, max_megapixels=max_megapixels)):
        typer.echo(line)
    after = load_picture(output, max_megapixels=max_megapixels).pixels
    most = round(float((after - before).abs().max()) * 255, 2) if after.shape == before.shape else None
    typer.echo(
        "other sizes" if most is None else "the same pixels" if most == 0 else f"pixels differ by at most {most:g}/255"
    )


@contextmanager
def tiles_for(output: Path, redone: Sequence[int]) -> Iterator[Store]:
    """Where tiles are kept that are to be done again, beside the result, for as long as it takes; nowhere, if there are none.
    What killed runs left there of theirs goes."""
    for left in output.parent.glob(f"{FOLDER}*/{LOCK}"):
        if abandoned(left, seconds=FRESH):
            rmtree(left.parent, ignore_errors=True)
    if not redone:
        yield Store()
        return
    check_writable(output)
    with TemporaryDirectory(prefix=FOLDER, dir=output.parent) as folder, (Path(folder) / LOCK).open("w") as lock:
        hold(lock)
        yield Store(
            Path(folder) / "tiles", math.inf, redone=tuple(redone)
        )  # they are this picture's, and all are needed


def living(store: Store, progress: Progress) -> Progress:
    """The same, which also has the lock beside the store be new: where the system has no locks, its age alone tells that the run
    lives."""
    if store.folder is None:
        return progress
    lock = store.folder.with_name(LOCK)

    def told(stage: str, done: float, total: float, note: str = "") -> None:
        os.utime(lock)
        progress(stage, done, total, note)

    return told
