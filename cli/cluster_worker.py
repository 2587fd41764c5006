"""What a worker of a Ray cluster is: models that are loaded once, and pictures one after the other. Knows nothing of Ray."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .batch import Batch, look, stamp_of
from .one import upscale_file
from .sentences import for_the_user

if TYPE_CHECKING:
    from ..upscaling.masks import Masks
    from ..upscaling.settings import UpscaleSettings
    from ..upscaling.upscaler import Upscaler


@dataclass(frozen=True)
class State:
    """Where a worker is, its version, and the fingerprint of its settings and models. problem: why it cannot work."""

    where: str
    version: str
    stamp: str
    problem: str = ""


@dataclass(frozen=True)
class Outcome:
    """Of a picture, or of some of its tiles: lines to print and the report; or its tiles in waves; or why it failed."""

    where: str
    seconds: float
    lines: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    failed: str = ""
    waves: list[list[int]] = field(default_factory=list)


def _silent(stage: str, done: float, total: float, note: str = "") -> None:
    """A worker shows no bars."""


class Worker:
    """batch: how pictures are done, without any. options: the keywords of ``dinotile.upscale``."""

    def __init__(self, batch: Batch, options: dict[str, Any]) -> None:
        self.batch, self.options = batch, options
        self.where = f"{socket.gethostname()}, process {os.getpid()}"
        self.loaded: tuple[Upscaler, UpscaleSettings, Masks] | None = None

    def ready(self) -> State:
        """Load the models, if that was not done. What the user can mend is told, as the worker itself is whole."""
        try:
            self._parts()
            return State(self.where, version("dinotile"), stamp_of(self.batch, self.options))
        except Exception as error:
            said = for_the_user(error)
            if said is None:
                raise
            return State(self.where, version("dinotile"), "", said)

    def upscale(self, source: Path, output: Path) -> Outcome:
        start, lines = time.perf_counter(), list[str]()
        upscaler, settings, masks = self._parts()
        batch = self._looked(source, output)
        for _ in batch.left():
            with batch.trying(source, go_on=True):
                lines += upscale_file(
                    batch,
                    upscaler,
                    source,
                    output,
                    self.options,
                    settings=settings,
                    masks=masks,
                    progress=_silent,
                )
        done = {} if source in batch.failed else {"lines": lines, "report": batch.done[0]}
        return self._outcome(start, batch, source, **done)

    def waves(self, source: Path, output: Path) -> Outcome:
        """All tiles of a picture: each wave needs those before it."""
        from ..files.sources import upright_size
        from ..tiling.order import waves

        start, found = time.perf_counter(), list[list[int]]()
        upscaler, settings, _ = self._parts()
        batch = self._looked(source, output)
        for _ in batch.left():
            with batch.trying(source, go_on=True):
                height, width = upright_size(source, max_megapixels=batch.max_megapixels)
                fitted = batch.fitted(settings, source, height, width)
                found = waves(fitted.plan(height, width, latents=upscaler.host.latents))
        return self._outcome(start, batch, source, waves=found)

    def tiles(self, source: Path, numbers: Sequence[int]) -> Outcome:
        """Finish these tiles in the store."""
        from ..files.sources import open_picture
        from ..hosts.memory import shortages_told
        from ..upscaling.large import finish_tiles

        start, facts = time.perf_counter(), dict[str, Any]()
        upscaler, settings, masks = self._parts()
        batch = replace(self.batch, done=[], failed={})
        with batch.trying(source, go_on=True), shortages_told():
            picture = open_picture(source, max_megapixels=batch.max_megapixels)
            settings, store = batch.fitted(settings, source, picture.height, picture.width), batch.store
            upscaler = batch.told(upscaler, source)
            assert store.folder is not None
            kept = {"store": store.folder, "store_size": store.size}
            facts = finish_tiles(upscaler, picture, settings, numbers, masks=masks, **kept)
        return self._outcome(start, batch, source, report=facts)

    def _looked(self, source: Path, output: Path) -> Batch:
        """A batch of this picture alone, where it was looked at all that can be wrong with it."""
        _, settings, masks = self._parts()
        batch = replace(self.batch, jobs=[(source, output)], done=[], failed={}, keep_going=True)
        look(batch, settings=settings, masks=masks)
        return batch

    def _outcome(self, start: float, batch: Batch, source: Path, **found: Any) -> Outcome:
        seconds = round(time.perf_counter() - start, 3)
        return Outcome(self.where, seconds, failed=batch.failed.get(source, ""), **found)

    def _parts(self) -> tuple[Upscaler, UpscaleSettings, Masks]:
        from ..upscaling.api import load_upscaler
        from ..upscaling.masks import load_masks

        if self.loaded is None:
            settings, models, masks = self.batch.split(self.options)
            where = load_masks(**masks, max_megapixels=self.batch.max_megapixels)
            self.loaded = load_upscaler(**models), settings, where
        return self.loaded
