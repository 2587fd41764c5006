"""One picture of a batch: from its file to the result's, and the line about it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.progress import Progress
from .batch_report import plural
from .compare import beside, place

if TYPE_CHECKING:
    from ..upscaling.masks import Masks
    from ..upscaling.settings import UpscaleSettings
    from ..upscaling.upscaler import Upscaler
    from .batch import Batch


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
    from ..files.sources import open_picture, upright_size
    from ..hosts.memory import shortages_told
    from ..upscaling.api import upscale_picture
    from ..upscaling.large import upscale_file as in_rows
    from ..upscaling.recipe import recipe, source_of

    start = time.perf_counter()
    with shortages_told():  # of its prompt too
        own, made_from = upright_size(source, max_megapixels=batch.max_megapixels), source_of(source)
        settings, upscaler = batch.fitted(settings, source, *own), batch.told(upscaler, source)
        settings = replace(settings, mode=batch.mode(settings, *own))
        said = partial(recipe, source=made_from, options={**options, **batch.own_of(source)}, masks=masks)
        if settings.mode == "sequential":
            store, file = batch.store, open_picture(source, max_megapixels=batch.max_megapixels)
            facts = in_rows(
                upscaler,
                file,
                output,
                settings,
                masks=masks,
                store=store.folder,
                store_size=store.size,
                redo=store.redo,
                redone=store.redone,
                max_megapixels=batch.max_megapixels,
                recipe=partial(said, report=upscaler.identity()) if batch.recipe else None,
                progress=progress,
            )
            note = facts["note"]
        else:
            picture = load_picture(source, max_megapixels=batch.max_megapixels)
            result, facts = upscale_picture(upscaler, picture, settings, masks=masks, progress=progress)
            if batch.recipe:
                made = said(settings=settings, report=facts)
                result = replace(result, metadata=replace(result.metadata, recipe=made))
            note = save_picture(result, output)
            if batch.compare:
                save_picture(beside(picture, result), place(output))
        named = {"file": str(source), "fingerprint": made_from["fingerprint"], "written": str(output), "note": note}
    batch.done.append({**named, **facts})
    yield line(output, facts, seconds=time.perf_counter() - start)
    if note:
        yield note


def line(output: Path, facts: dict[str, Any], *, seconds: float) -> str:
    """What is printed of a picture, by its report."""
    from ..upscaling.settings import DINO_ALONE

    size, tiles = facts["output"], plural(facts["tiles"]["count"], "tile")
    used = facts["dino"] or any(facts["settings"][name] for name in DINO_ALONE)
    guided = "with DINO" if used else "without DINO"
    peak = facts["peak_memory"]["device"] or facts["peak_memory"]["process"]
    again = f", {plural(len(facts['retry']), 'tile')} tried again" if facts["retry"] else ""
    if facts["settings"]["mode"] == "sequential":
        again = f", one after the other{told_kept(facts['kept'])}"
    less = f", less at a time as memory ended: {scarce(facts)}" if facts["out_of_memory"] else ""
    by = f", by {plural(facts['workers'], 'worker')}" if facts.get("workers", 1) > 1 else ""
    return (
        f"{output}  {size['width']} x {size['height']} px, {tiles}, {plural(facts['steps'], 'step')}, {guided}{again}{less}{by}, "
        f"{seconds:.1f} s" + (f", peak memory {peak / 2**30:.2f} GiB" if peak else "")
    )


def told_kept(kept: dict[str, Any]) -> str:
    """What a store was good for."""
    said = {"reused": "from the store", "redone": "done again", "damaged": "damaged there"}
    return "".join(f", {len(kept[name])} {what}" for name, what in said.items() if kept[name])


def scarce(facts: dict[str, Any]) -> str:
    """What each stage that ran out of memory went on with at last."""
    last = {each["stage"]: each["goes_on_with"] for each in facts["out_of_memory"]}
    return "; ".join(f"{stage} with {said}" for stage, said in last.items())
