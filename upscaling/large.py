"""Pictures of any size, from file to file, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files.kinds import MEGAPIXELS, MOST_STORED
from ..files.progress import Progress
from ..files.resampling import span
from ..files.sources import PictureFile
from ..files.streams import Form, written
from ..files.writing import check_picture_output
from ..hosts.memory import each_once
from ..tiling.canvas import scaled_size
from ..tiling.store import TileStore
from .masks import EVERYWHERE, Masks
from .redo import chosen_tiles
from .rows import resized
from .settings import UpscaleSettings
from .upscaler import Upscaler


def upscale_file(
    upscaler: Upscaler,
    source: PictureFile,
    output: Path,
    settings: UpscaleSettings,
    *,
    masks: Masks = EVERYWHERE,
    store: Path | None = None,
    store_size: float = MOST_STORED,
    redo: str = "",
    redone: Sequence[int] = (),
    max_megapixels: float = MEGAPIXELS,
    recipe: Callable[..., str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """``Upscaler.upscale_tiles`` into a file, with the transparency and what else the source's file says; its report, with a note
    of what the result's file does not hold, or None.

    store: the folder of finished tiles, of at most ``store_size`` GiB. redo: of ``chosen_tiles``, with ``max_megapixels``;
    redone: instead of it, numbers from 0 in the order in which they are done again. recipe: what the file is to say of how it was
    made, by settings with the mode, tiles that were ever done again, and where memory ended for any tile. ValueError for bad
    input, before anything is written to ``output``.
    """
    if (redo or redone) and store is None:
        raise ValueError("redo takes all other tiles from a store, and none was named: name one with --store")
    settings = settings.sequential
    height, width = scaled_size(source.height, source.width, scale=settings.scale)
    done, kept, write = 0, None, None
    again: list[list[int] | None] = []  # tiles that were done again, once it is known
    transparency = _Alpha(source)
    chosen = partial(chosen_tiles, redo, size=(height, width), max_megapixels=max_megapixels)
    check_picture_output(output, height=height, width=width)

    def opened(job: str) -> TileStore:
        nonlocal kept
        kept = TileStore(store or Path(), job, most=store_size)
        return kept

    def form(ended: Sequence[Mapping[str, str]] = ()) -> Form:
        """What the file says beside its rows: which tiles were done again is known before these, where memory ended is not."""
        if recipe is None:
            return source.form
        if not again:
            again.append([] if kept is None else kept.redone)
        before = [] if kept is None else [each for tile in sorted(kept.short) for each in kept.short[tile]]
        said = recipe(settings=settings, redone=again[0], short=each_once([*ended, *before]))
        return replace(source.form, metadata=replace(source.form.metadata, recipe=said))

    with ExitStack() as file:

        def put(rows: Tensor) -> None:
            nonlocal done, write
            if write is None:
                write = file.enter_context(written(output, form(), height=height, width=width))
            alpha, end = None, done + rows.shape[-2]
            if source.form.alpha:
                lines = span(done, end, side=height, source=source.height)
                alpha = resized(transparency, lines, width=width).clamp_(0, 1)
            write(rows, alpha)
            done = end

        report = upscaler.upscale_tiles(
            source,
            settings,
            write=put,
            masks=masks,
            open_store=None if store is None else opened,
            redo=(lambda plan: list(redone)) if redone else chosen if redo else None,
            progress=progress,
        )
        if write is not None:
            write.form = form(report["out_of_memory"])
    assert write is not None
    notes = source.note, write.note
    return {**report, "note": "; ".join(note for note in notes if note) or None}


def finish_tiles(
    upscaler: Upscaler,
    source: PictureFile,
    settings: UpscaleSettings,
    numbers: Sequence[int],
    *,
    masks: Masks = EVERYWHERE,
    store: Path,
    store_size: float = MOST_STORED,
) -> dict[str, Any]:
    """These tiles, from 0, of what ``upscale_file`` does with the same, into the store, where those that they see are;
    its report."""
    return upscaler.upscale_tiles(
        source,
        settings.sequential,
        write=lambda rows: None,
        masks=masks,
        open_store=partial(TileStore, store, most=store_size),
        only=numbers,
    )


class _Alpha:
    """The transparency of a picture as a ``Source``, of one channel."""

    def __init__(self, source: PictureFile) -> None:
        self.height, self.width, self.rows = source.height, source.width, source.alpha
