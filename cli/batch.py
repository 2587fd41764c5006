"""The command line's work on many files, with one load of the models."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..files.formats import check_output
from ..files.pictures import load_picture, save_picture
from ..files.progress import Progress
from ..files.writing import make_folder
from ..tiling.canvas import scaled_size
from ..upscaling.api import load_upscaler, upscale_picture
from ..upscaling.report import environment, timed, write_report
from ..upscaling.settings import UpscaleSettings
from .outputs import check_report


def upscale_files(
    inputs: Sequence[Path],
    outputs: Sequence[Path],
    settings: UpscaleSettings,
    *,
    variant: str,
    models: dict[str, Any],
    folder: Path | None = None,
    report: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[str]:
    """Upscale each input into its output, and yield a line about each. Looks at every file before loading a model.

    ``folder`` is made where it does not exist.
    """
    sizes = [scaled_size(*load_picture(source).pixels.shape[-2:], settings.scale) for source in inputs]
    if folder is not None:
        make_folder(folder)
    for output, (height, width) in zip(outputs, sizes, strict=True):
        check_output(output, height=height, width=width)
    if report is not None:
        check_report(report, [*inputs, *outputs])
    seconds: dict[str, float] = {}
    with timed(seconds, "load"):
        upscaler = load_upscaler(variant, **models)
    done = []
    for source, output in zip(inputs, outputs, strict=True):
        start = time.perf_counter()
        result, facts = upscale_picture(upscaler, load_picture(source), settings, progress=progress)
        note = save_picture(result, output)
        done.append({"file": str(source), "written": str(output), "note": note, **facts})
        size = facts["output"]
        tiles, steps = facts["tiles"]["count"], facts["steps"]
        guided = "with DINO" if facts["dino"] else "without DINO"
        yield (
            f"{output}  {size['width']} x {size['height']} px, {_counted(tiles, 'tile')}, {_counted(steps, 'step')}, {guided}, "
            f"{time.perf_counter() - start:.1f} s"
        )
        if note:
            yield note
    if report is not None:
        asked = {name: str(value) if isinstance(value, Path) else value for name, value in models.items()}
        summary = {
            **environment(upscaler.device),
            "dtype": str(upscaler.dtype).removeprefix("torch."),
            "variant": variant,
        }
        write_report({**summary, "models": asked, "seconds": seconds, "pictures": done}, report)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
