"""``dinotile flatdino evaluate`` and others that look at a FlatDINO or at patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..files.writing import check_picture_output, check_writable, write_text
from .bars import Bars
from .features import Data, Device, Layers, Side
from .flatdino_data import Flat, Maker, OwnDino, Stored, patches_of
from .outputs import OVERWRITE, check_free, check_inputs_stay

if TYPE_CHECKING:
    import torch

    from ..training.flatdino.patches import Patches

Report = Annotated[Path | None, typer.Option("--output", "-o", metavar="JSON", help="Write the numbers there too.")]


def evaluate(
    flat: Flat,
    data: Data,
    fit: Annotated[
        list[str], typer.Option(metavar="DATA", help="Compare with codes of the same size, fitted to these pictures.")
    ] = [],  # noqa: B006  typer copies it
    pixels: Annotated[
        Path | None, typer.Option(metavar="DECODER", help="Of `train-decoder`: PSNR and SSIM of what it draws too.")
    ] = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            metavar="GENERATOR", help="Of `train-generator`: how far its samples, drawn by --pixels, are too."
        ),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(metavar="WEIGHTS", help="Of FID, as .safetensors: rFID of --pixels, gFID of --generator."),
    ] = None,
    guidance: Annotated[float, typer.Option(help="Of those, to their classes: 1 is plain, usually 1 to 4.")] = 1.0,
    output: Report = None,
    dino: OwnDino = "",
    features: Stored = "",
    encoder: Maker = "",
    layers: Layers = "last",
    side: Side = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """Cosine, Huber and explained variance of restored patches, of pictures that were not trained on."""
    options = locals()
    read = [each for each in (pixels, generator, inception) if each is not None]
    _check_report(output, [flat, *data, *fit, dino, *read], overwrite=overwrite)
    for given, does in ((generator, "--generator makes latents"), (inception, "--inception judges pictures")):
        if given is not None and pixels is None:
            raise ValueError(f"{does}, and what draws them is left out: give --pixels DECODER")
    if pixels is not None and not dino:
        raise ValueError("--pixels are compared with pictures, which stored features have none of: give --dino")
    from ..dino.compress.checkpoint import load_flat
    from ..dino.compress.generator import load_generator
    from ..dino.compress.pixels import load_pixels
    from ..training.flatdino.evaluate import evaluate as measure
    from ..training.flatdino.evaluate import lines
    from ..training.flatdino.fidelity import pixel_score
    from ..training.flatdino.inception import load_inception
    from ..training.flatdino.patches import EncodedPatches

    place, source = patches_of(data, options)
    other = patches_of(fit, options)[1] if fit else None
    loaded = load_flat(flat)
    decoder = None if pixels is None else load_pixels(pixels, flat=loaded.fingerprint, device=place)
    made = None if generator is None else load_generator(generator, flat=loaded.fingerprint, device=place)
    judge = None if inception is None else load_inception(inception, device=place)
    if guidance != 1 and (made is None or not made.module.config.classes):
        raise ValueError(f"guidance {guidance:g} acts with a generator of classes only: leave it at 1")
    with Bars() as bars:
        scores = measure(loaded, source, fit=other, device=place, progress=bars)
        values, shown = [score.values() for score in scores], lines(scores)
        if decoder is not None and isinstance(source, EncodedPatches):
            asked = {"generator": made, "guidance": guidance, "inception": judge}
            drawn = pixel_score(loaded, decoder, source, device=place, progress=bars, **asked)
            values, shown = [*values, drawn.values()], [*shown, *drawn.lines()]
    _report(output, values, shown)


def probe(
    flat: Flat,
    train: Annotated[str, typer.Argument(metavar="TRAIN", help="A folder with a folder of pictures for each class.")],
    test: Annotated[str, typer.Argument(metavar="TEST", help="The same classes, other pictures.")],
    output: Report = None,
    dino: OwnDino = "",
    features: Stored = "",
    encoder: Maker = "",
    layers: Layers = "last",
    side: Side = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """Classes by nearest neighbours and by a linear classifier, from DINO's patches and from what they became."""
    options = locals()
    _check_report(output, [flat, train, test, dino], overwrite=overwrite)
    from dataclasses import asdict

    from ..dino.compress.checkpoint import load_flat
    from ..training.flatdino.probe import probe as measure
    from ..training.flatdino.probe import table

    (place, known), (_, asked) = (patches_of([path], options) for path in (train, test))
    with Bars() as bars:
        found = measure(load_flat(flat), known, asked, device=place, progress=bars)
    _report(output, [asdict(each) for each in found], table(found))


def tokens(
    flat: Flat,
    data: Data,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PICTURE", help="Where each token looks.")
    ] = None,
    dino: OwnDino = "",
    features: Stored = "",
    encoder: Maker = "",
    layers: Layers = "last",
    side: Side = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """What each token is for: token ablation, attention maps, mutual information and total correlation."""
    options = locals()
    _check_picture(output, [flat, *data, dino], overwrite=overwrite)
    from ..dino.compress.checkpoint import load_flat
    from ..files.pictures import Picture, save_picture
    from ..training.flatdino.tokens import tokens as look

    place, source = patches_of(data, options)
    with Bars() as bars:
        found = look(load_flat(flat), source, device=place, progress=bars)
    typer.echo("\n".join(found.lines()))
    if output is not None:
        save_picture(Picture(found.picture()[None]), output)


def redundancy(
    data: Data,
    output: Report = None,
    most: Annotated[int, typer.Option(help="At most so many pictures, usually 1000.")] = 1000,
    dino: OwnDino = "",
    features: Stored = "",
    encoder: Maker = "",
    layers: Layers = "last",
    side: Side = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """How much DINO's patches repeat their neighbours, and how many dimensions they fill."""
    options = locals()
    _check_report(output, [*data, dino], overwrite=overwrite)
    from dataclasses import asdict

    from ..training.flatdino.redundancy import redundancy as look

    _, source = patches_of(data, options)
    with Bars() as bars:
        found = look(source, most=most, progress=bars)
    _report(output, [asdict(found)], found.lines())


def interpolate(
    flat: Flat,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PICTURE", help="The strip.")],
    first: Annotated[int, typer.Option(help="Number of the sample to begin at, from 0.")] = 0,
    second: Annotated[int, typer.Option(help="Number of the sample to end at.")] = 1,
    steps: Annotated[int, typer.Option(help="Pictures between them, usually 3 to 9.")] = 5,
    dino: OwnDino = "",
    features: Stored = "",
    encoder: Maker = "",
    layers: Layers = "last",
    side: Side = 0,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE)] = False,
) -> None:
    """A strip of patches as colours: two samples of the data, and what is restored from latents between theirs."""
    options = locals()
    _check_picture(output, [flat, *data, dino], overwrite=overwrite)
    from ..dino.compress.checkpoint import load_flat
    from ..files.pictures import Picture, save_picture
    from ..training.flatdino.between import strip

    place, source = patches_of(data, options)
    loaded = load_flat(flat, device=place)
    source.check(loaded.config, "the features")
    ends = [_sample(source, number) for number in (first, second)]
    save_picture(Picture(strip(loaded, *ends, steps=steps)[None]), output)
    typer.echo(f"{output}: {source.names[first]} to {source.names[second]}")


def _sample(source: Patches, number: int) -> torch.Tensor:
    """The patches [h, w, D] of a sample; ValueError where there is no such one, or it cannot be used."""
    if not 0 <= number < len(source):
        raise ValueError(f"sample {number} is not there, the data has 0 to {len(source) - 1}: choose one of them")
    patches = source.batch([number])[0]
    if patches is None:
        raise ValueError(
            f"sample {number}, {source.names[number]}, cannot be used ({source.skipped}): choose another one"
        )
    return patches[0]


def _check_picture(output: Path | None, inputs: list[object], *, overwrite: bool) -> None:
    if output is not None:
        check_inputs_stay([output], [str(each) for each in inputs])
        check_free([output], overwrite=overwrite)
        check_picture_output(output)


def _check_report(output: Path | None, inputs: list[object], *, overwrite: bool) -> None:
    if output is not None:
        check_inputs_stay([output], [str(each) for each in inputs])
        check_free([output], overwrite=overwrite)
        check_writable(output)


def _report(output: Path | None, values: list[dict[str, object]], shown: list[str]) -> None:
    typer.echo("\n".join(shown))
    if output is not None:
        write_text(output, json.dumps(values, indent=1) + "\n")
