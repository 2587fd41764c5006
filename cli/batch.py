"""The pictures of one ``dinotile upscale``, one after the other, and what became of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.fingerprints import fingerprint
from ..files.kinds import MEGAPIXELS
from ..files.progress import Progress
from ..files.writing import check_picture_output, check_writable, make_folder
from ..tiling.wanted import WantedSize
from .batch_report import write_report
from .compare import extent, place
from .kept import Store
from .lists import PROMPT
from .manifest import DONE, FAILED, RUNNING, Manifest, check_manifest, named
from .one import upscale_file
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
    made. wanted: the size of results, where it is no factor. compare: whether pictures beside plain enlargement are written.
    manifest: where each picture's end is noted; stamp: the fingerprint of the settings. own: options that pictures have of their
    own, by absolute path."""

    jobs: list[tuple[Path, Path]]
    folder: Path | None = None
    report: Path | None = None
    keep_going: bool = False
    recipe: bool = True
    wanted: WantedSize = WantedSize()
    compare: bool = False
    store: Store = Store()
    max_megapixels: float = MEGAPIXELS
    done: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    manifest: Manifest | None = None
    stamp: str = ""
    own: dict[str, dict[str, Any]] = field(default_factory=dict)

    def fitted(self, settings: UpscaleSettings, source: Path, height: int, width: int) -> UpscaleSettings:
        """The settings for a picture of that size; ValueError where its size cannot be had."""
        own = {name: value for name, value in self.own_of(source).items() if name != PROMPT}
        scale = {"scale": self.wanted.scale(height, width)} if self.wanted.given else {}
        return replace(settings, **own, **scale)

    def own_of(self, source: Path) -> dict[str, Any]:
        return self.own.get(named(source), {})

    def told(self, upscaler: Upscaler, source: Path) -> Upscaler:
        """The upscaler with the picture's own prompt."""
        prompt = self.own_of(source).get(PROMPT)
        return upscaler if prompt is None else upscaler.with_prompt(prompt)

    def split(self, options: dict[str, Any]) -> tuple[UpscaleSettings, dict[str, Any], dict[str, Any]]:
        """``split_options``, with the prompts of all pictures for ``load_upscaler``."""
        from ..upscaling.api import split_options

        prompts = [own[PROMPT] for own in self.own.values() if PROMPT in own]  # as pictures come, with repeats
        if prompts:
            split_options({**options, PROMPT: prompts[0]})  # refuses what would do nothing
        settings, models, masks = split_options(options)
        return settings, {**models, **({"prompts": prompts} if prompts else {})}, masks

    def stamped(self, source: Path) -> str:
        """The fingerprint of what decides how this picture comes out."""
        own = self.own_of(source)
        return fingerprint(f"{self.stamp} {json.dumps(own, sort_keys=True)}".encode()) if own else self.stamp

    def mode(self, settings: UpscaleSettings, height: int, width: int) -> str:
        from ..upscaling.mode import mode_for

        kept = self.store.folder is not None
        return mode_for(settings, height=height, width=width, kept=kept, whole=self.compare)

    def places(self) -> list[Path]:
        """Where the jobs' results go, and comparisons of them."""
        outputs = [output for _, output in self.jobs]
        return [*outputs, *(map(place, outputs) if self.compare else ())]

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

    @contextmanager
    def noted(self, source: Path, output: Path) -> Iterator[None]:
        """The manifest's lines about a picture: that it begins, and how it ended, which a killed process leaves out."""
        start, before = time.perf_counter(), len(self.done)
        self.note(source, output, RUNNING)
        yield
        seconds = round(time.perf_counter() - start, 3)
        if source in self.failed:
            self.note(source, output, FAILED, why=self.failed[source], seconds=seconds)
        elif len(self.done) > before:
            self.note(source, output, DONE, **self.made(source, output, seconds))

    def note(self, source: Path, output: Path, status: str, **facts: Any) -> None:
        if status == RUNNING and self.compare:
            facts["further"] = {place(output).name: 0}
        if self.manifest is not None:
            self.manifest.note(source, output, status, own=self.own_of(source) or None, **facts)

    def made(self, source: Path, output: Path, seconds: float) -> dict[str, Any]:
        """What the manifest says of the last picture that is done."""
        fingerprint, both = self.done[-1]["fingerprint"], place(output)
        return {
            "input": fingerprint,
            "settings": self.stamped(source),
            "size": output.stat().st_size,
            "further": {both.name: both.stat().st_size} if self.compare else None,
            "seconds": seconds,
        }

    def taken(self) -> list[Path]:
        """Where the jobs write, but for what an earlier run of them wrote there, as their manifest knows."""
        own = self.manifest.owned(output for _, output in self.jobs) if self.manifest is not None else set()
        return [path for path in self.places() if path not in own]

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
    from ..upscaling.api import load_upscaler
    from ..upscaling.masks import load_masks
    from ..upscaling.report import timed

    settings, models, masks = batch.split(options)
    batch.store.check(settings, jobs=len(batch.jobs), compare=batch.compare)
    where = load_masks(**masks, max_megapixels=batch.max_megapixels)
    outputs = dict(batch.jobs)
    look(batch, settings=settings, masks=where)
    if batch.manifest is not None:
        batch.manifest.begin()
    for source, why in batch.failed.items():
        batch.note(source, outputs[source], FAILED, why=why)
    upscaler, seconds = None, {}
    try:
        if any(batch.left()):
            with timed(seconds, "load"):
                upscaler = load_upscaler(**models, progress=progress)
            batch.stamp = batch.stamp and stamp_of(batch, options)  # again: models may have been downloaded now
            for source, output in batch.left():
                with batch.noted(source, output), batch.trying(source, go_on=batch.keep_going):
                    yield from upscale_file(
                        batch, upscaler, source, output, options, settings=settings, masks=where, progress=progress
                    )
                if source in batch.failed:
                    yield f"{source}  failed: {batch.failed[source]}"
    finally:
        if batch.report is not None:
            write_report(batch, upscaler, options={**models, **masks}, seconds=seconds)
        if batch.manifest is not None:
            batch.manifest.close()


def resume(batch: Batch, path: Path, options: dict[str, Any]) -> str:
    """Leave out of the jobs what a manifest at ``path`` knows as done, and tell it in a sentence. Nothing is written yet."""
    pictures = [*(source for source, _ in batch.jobs), *batch.places()]
    check_manifest(path, pictures, folder=batch.folder, report=batch.report)
    batch.manifest, batch.stamp = Manifest.read(path), stamp_of(batch, options)
    left = batch.manifest.left(batch.jobs, batch.stamped)
    said, batch.jobs = batch.manifest.told(batch.jobs, left), left
    return said


def stamp_of(batch: Batch, options: dict[str, Any]) -> str:
    """The fingerprint of what decides how the batch's results come out, but for their sources."""
    from ..upscaling.identity import settings_fingerprint

    more = {"wanted": asdict(batch.wanted), "recipe": batch.recipe, "compare": batch.compare}
    if batch.store.folder is not None and options.get("mode", "auto") == "auto":  # which then is sequential
        more |= {"kept": True}
    return settings_fingerprint(options, **more)


def look(batch: Batch, *, settings: UpscaleSettings, masks: Masks) -> None:
    """``look_ahead``, and make the folder."""
    look_ahead(batch, settings=settings, masks=masks)
    if batch.folder is not None:
        make_folder(batch.folder)


def look_ahead(
    batch: Batch, *, settings: UpscaleSettings, masks: Masks
) -> dict[Path, tuple[int, int, UpscaleSettings]]:
    """Read every picture, and try every place that will be written, before any work: what ``usable`` says of each."""
    from ..tiling.canvas import scaled_size

    found = {}
    for source, _ in batch.jobs:
        with batch.trying(source, go_on=True):  # to tell all that is wrong together
            found[source] = usable(batch, source, settings=settings, masks=masks)
    batch.check()
    for source, output in batch.left():
        with batch.trying(source, go_on=batch.keep_going):
            height, width, fitted = found[source]
            height, width = scaled_size(height, width, scale=fitted.scale)
            check_picture_output(output, height=height, width=width, folder=batch.folder)
            if batch.compare:
                high, wide = extent(height, width)
                check_picture_output(place(output), height=high, width=wide, folder=batch.folder)
    if batch.report is not None:
        check_writable(batch.report, folder=batch.folder)
    return {source: found[source] for source, _ in batch.left()}


def usable(batch: Batch, source: Path, *, settings: UpscaleSettings, masks: Masks) -> tuple[int, int, UpscaleSettings]:
    """Height and width of a picture, and the settings for it; ValueError where it cannot be done so."""
    from ..files.pictures import load_picture
    from ..files.sources import open_picture, upright_size
    from ..flux_patch.families import FLUX1
    from ..tiling.canvas import scaled_size
    from ..upscaling.redo import check_redone, chosen_tiles

    height, width = upright_size(source, max_megapixels=batch.max_megapixels)
    fitted = batch.fitted(settings, source, height, width)
    sequential = batch.mode(fitted, height, width) == "sequential"
    (open_picture if sequential else load_picture)(source, max_megapixels=batch.max_megapixels)
    masks.check(height, width)
    if batch.store.redo:
        size = scaled_size(height, width, scale=fitted.scale)
        plan = fitted.plan(height, width, latents=FLUX1)
        chosen_tiles(batch.store.redo, plan, size=size, max_megapixels=batch.max_megapixels)
    if batch.store.redone:
        check_redone(batch.store.redone, fitted.plan(height, width, latents=FLUX1))
    return height, width, fitted
