"""The pictures of one ``dinotile upscale``, one after the other, and what became of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.kinds import MEGAPIXELS
from ..files.progress import Progress
from ..files.writing import check_picture_output, check_writable, make_folder, write_text
from ..tiling.wanted import WantedSize
from .compare import beside, extent, place
from .sentences import for_the_user

if TYPE_CHECKING:
    from ..upscaling.masks import Masks
    from ..upscaling.settings import UpscaleSettings
    from ..upscaling.upscaler import Upscaler

TOLD = 20  # unusable pictures in one sentence


@dataclass
class Batch:
    """jobs: each picture and where its result goes. folder: made where it is not there. done: reports by picture.
    failed: why a picture has no result. keep_going: whether the others are then done. recipe: whether results say how they were
    made. wanted: the size of results, where it is no factor. compare: whether pictures beside plain enlargement are written."""

    jobs: list[tuple[Path, Path]]
    folder: Path | None = None
    report: Path | None = None
    keep_going: bool = False
    recipe: bool = True
    wanted: WantedSize = WantedSize()
    compare: bool = False
    max_megapixels: float = MEGAPIXELS
    done: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)

    def fitted(self, settings: UpscaleSettings, height: int, width: int) -> UpscaleSettings:
        """The settings for a picture of that size; ValueError where its size cannot be had."""
        return replace(settings, scale=self.wanted.scale(height, width)) if self.wanted.given else settings

    def left(self) -> Iterator[tuple[Path, Path]]:
        return ((source, output) for source, output in self.jobs if source not in self.failed)

    @contextmanager
    def trying(self, source: Path, *, go_on: bool) -> Iterator[None]:
        """Note what the user can mend as this picture's failure, and go on after it or not; everything else is raised."""
        try:
            yield
        except Exception as error:
            said = for_the_user(error)
            if said is None:
                raise
            self.failed[source] = " ".join(said.split())
            if not go_on:
                raise

    def check(self) -> None:
        """ValueError with all that failed, unless the others are to be done."""
        if not self.failed or self.keep_going:
            return
        told = list(self.failed.values())
        if len(told) == 1:
            raise ValueError(told[0])
        more = f"; and {len(told) - TOLD} more" if len(told) > TOLD else ""
        raise ValueError(f"{len(told)} of {len(self.jobs)} pictures cannot be used: {'; '.join(told[:TOLD])}{more}")


def upscale_batch(batch: Batch, options: dict[str, Any], *, progress: Progress) -> Iterator[str]:
    """Upscale each picture into its output, and yield a line about each. Looks at every file before loading a model.

    options: the keywords of ``dinotile.upscale``. The report is written of what was done, however it ends.
    """
    from ..upscaling.api import load_upscaler, split_options
    from ..upscaling.masks import load_masks
    from ..upscaling.report import timed

    settings, models, masks = split_options(options)
    where = load_masks(**masks, max_megapixels=batch.max_megapixels)
    look(batch, settings=settings, masks=where)
    upscaler, seconds = None, {}
    try:
        if any(batch.left()):
            with timed(seconds, "load"):
                upscaler = load_upscaler(**models, progress=progress)
            for source, output in batch.left():
                with batch.trying(source, go_on=batch.keep_going):
                    yield from upscale_file(
                        batch, upscaler, source, output, options, settings=settings, masks=where, progress=progress
                    )
                if source in batch.failed:
                    yield f"{source}  failed: {batch.failed[source]}"
    finally:
        if batch.report is not None:
            write_report(batch, upscaler, options={**models, **masks}, seconds=seconds)


def look(batch: Batch, *, settings: UpscaleSettings, masks: Masks) -> None:
    """Read every picture, and try every place that will be written, before any work."""
    from ..files.pictures import load_picture
    from ..tiling.canvas import scaled_size

    sizes = {}
    for source, _ in batch.jobs:
        with batch.trying(source, go_on=True):  # to tell all that is wrong together
            picture = load_picture(source, max_megapixels=batch.max_megapixels)
            masks.check(*picture.pixels.shape[-2:])
            own = picture.pixels.shape[-2:]
            sizes[source] = scaled_size(*own, scale=batch.fitted(settings, *own).scale)
    batch.check()
    if batch.folder is not None:
        make_folder(batch.folder)
    for source, output in batch.left():
        with batch.trying(source, go_on=batch.keep_going):
            height, width = sizes[source]
            check_picture_output(output, height=height, width=width)
            if batch.compare:
                high, wide = extent(height, width)
                check_picture_output(place(output), height=high, width=wide)
    if batch.report is not None:
        check_writable(batch.report)


def upscale_file(
    batch: Batch,
    upscaler: Upscaler,
    source: Path,
    output: Path,
    options: dict[str, Any],
    *,
    settings: UpscaleSettings,
    masks: Masks,
    progress: Progress,
) -> Iterator[str]:
    from ..files.pictures import load_picture, save_picture
    from ..upscaling.api import upscale_picture
    from ..upscaling.recipe import recipe, source_of
    from ..upscaling.settings import DINO_ALONE

    start = time.perf_counter()
    picture, made_from = load_picture(source, max_megapixels=batch.max_megapixels), source_of(source)
    settings = batch.fitted(settings, *picture.pixels.shape[-2:])
    result, facts = upscale_picture(upscaler, picture, settings, masks=masks, progress=progress)
    if batch.recipe:
        said = recipe(source=made_from, options=options, settings=settings, report=facts)
        result = replace(result, metadata=replace(result.metadata, recipe=said))
    note = save_picture(result, output)
    if batch.compare:
        save_picture(beside(picture, result), place(output))
    batch.done.append({"file": str(source), "written": str(output), "note": note, **facts})
    size, tiles = facts["output"], plural(facts["tiles"]["count"], "tile")
    used = facts["dino"] or any(facts["settings"][name] for name in DINO_ALONE)
    guided = "with DINO" if used else "without DINO"
    peak = facts["peak_memory"]["device"] or facts["peak_memory"]["process"]
    again = f", {plural(len(facts['retry']), 'tile')} tried again" if facts["retry"] else ""
    less = f", less at a time as memory ended: {scarce(facts)}" if facts["out_of_memory"] else ""
    yield (
        f"{output}  {size['width']} x {size['height']} px, {tiles}, {plural(facts['steps'], 'step')}, {guided}{again}{less}, "
        f"{time.perf_counter() - start:.1f} s" + (f", peak memory {peak / 2**30:.2f} GiB" if peak else "")
    )
    if note:
        yield note


def scarce(facts: dict[str, Any]) -> str:
    """What each stage that ran out of memory went on with at last."""
    last = {each["stage"]: each["goes_on_with"] for each in facts["out_of_memory"]}
    return "; ".join(f"{stage} with {said}" for stage, said in last.items())


def write_report(
    batch: Batch, upscaler: Upscaler | None, *, options: dict[str, Any], seconds: dict[str, float]
) -> None:
    from ..upscaling.report import environment

    summary: dict[str, Any] = {}
    if upscaler is not None:
        summary = environment(upscaler.host.device) | {"dtype": str(upscaler.host.dtype).removeprefix("torch.")}
    summary |= {
        "variant": options["variant"],
        "options": {name: options[name] for name in options if name != "variant"},
    }
    failed = [{"file": str(source), "error": said} for source, said in batch.failed.items()]
    summary |= {"seconds": seconds, "pictures": batch.done, "failed": failed}
    assert batch.report is not None
    write_text(batch.report, json.dumps(summary, indent=2, default=str) + "\n")


def earlier(report: Path, jobs: Sequence[tuple[Path, Path]]) -> list[dict[str, Any]]:
    """The pictures of a report that an earlier run of the same batch left, without those of the jobs, which are done again;
    ValueError where it is no report."""
    again = {output for _, output in jobs}
    try:
        pictures = json.loads(report.read_text(encoding="utf-8"))["pictures"]
        if isinstance(pictures, list) and all(isinstance(picture, dict) for picture in pictures):
            return [picture for picture in pictures if Path(picture["written"]) not in again]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    raise ValueError(f"report {report} exists already and is no report of pictures: choose another name")


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(failed: dict[Path, str], jobs: Sequence[tuple[Path, Path]]) -> Any:
    """For rich: what has no result, and why."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=f"{len(failed)} of {len(jobs)} pictures failed", title_justify="left")
    shown.add_column("picture", overflow="fold")
    shown.add_column("why", overflow="fold")
    for source, said in failed.items():
        shown.add_row(Text(str(source)), Text(said))
    return shown
