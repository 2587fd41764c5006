"""What ``dinotile upscale --dry-run`` tells: what each picture would become and take. No model is loaded, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .batch import Batch, look_ahead
from .batch_report import plural


def told(batch: Batch, options: dict[str, Any]) -> Iterator[str]:
    """Two lines for each picture, and one for all. options: the keywords of ``dinotile.upscale``. ValueError for what a run
    would refuse before it loads models, and where pictures cannot be used, unless the batch keeps going."""
    import torch

    from ..flux_patch.families import FAMILIES
    from ..hosts.diffusers.sources import find_variant, local_path, model_files
    from ..hosts.host import EMPTY_TOKENS
    from ..hosts.rate import matrix_rate
    from ..upscaling.device import find_device, find_dtype
    from ..upscaling.forecast import Models, forecast, spoken
    from ..upscaling.guides import check_pair
    from ..upscaling.masks import load_masks

    settings, models, masks = batch.split(options)
    batch.store.check(settings, jobs=len(batch.jobs), compare=batch.compare)
    where = load_masks(**masks, max_megapixels=batch.max_megapixels)
    variant, no_dino = models.get("variant", "demo"), bool(models.get("no_dino"))
    named = ("model_path", "vae_path", "dino", "adapter", "upscale_model")
    files = model_files(variant, **{name: models.get(name) for name in named})
    if not no_dino:
        check_pair(files.dino, files.adapter, uses=settings.dino_uses)
    for name in ("decoder", "controlnet", "redux"):
        if models.get(name):
            local_path(models[name])
    device, dtype = find_device(models.get("device", "auto")), find_dtype(models.get("dtype", "auto"), variant=variant)
    known, tokens = Models.of(files, no_dino=no_dino), find_variant(variant).text_tokens or EMPTY_TOKENS
    kept = {"weights": models.get("weights", "full"), "offload": models.get("offload", "none")}
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    sizes = look_ahead(batch, settings=settings, masks=where)
    rate, seconds = matrix_rate(device, dtype), 0.0
    for source, (height, width, fitted) in sizes.items():
        found = forecast(fitted, known, height=height, width=width, dtype=dtype, text=tokens, **kept)
        seconds += found.seconds(rate)
        lines = [*found.lines(rate, room=gpu.total_memory if gpu else None)]
        if batch.mode(fitted, height, width) == "sequential":
            lines.append("one tile after the other (mode sequential)")
        yield f"{source}: " + "\n  ".join(lines)
    yield from (f"{source}: {why}" for source, why in batch.failed.items())
    on = gpu.name if gpu else f"{device.type}, {plural(torch.get_num_threads(), 'thread')}"
    asked = (
        ""
        if known.known
        else f", with {FAMILIES[known.geometry.family].title}'s sizes, as the model is named on the hub"
    )
    yield f"{plural(len(sizes), 'picture')}, about {spoken(seconds)} on {on}{asked}; nothing was loaded or written"
