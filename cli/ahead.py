"""What ``dinotile upscale --dry-run`` tells: what each picture would become and take. No model is loaded, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .batch import plural


def told(pictures: Sequence[Path], options: dict[str, Any], *, max_megapixels: float) -> Iterator[str]:
    """A line or two for each picture, and one for all. options: the keywords of ``dinotile.upscale``. ValueError as there, for
    what can be known from headers."""
    import torch

    from ..files.containers import opened
    from ..hosts.diffusers.sources import model_files
    from ..hosts.rate import matrix_rate
    from ..upscaling.api import find_device, find_dtype, split_options
    from ..upscaling.forecast import Models, forecast, spoken

    settings, models, _ = split_options(options)
    variant = models.get("variant", "demo")
    device, dtype = find_device(models.get("device", "auto")), find_dtype(models.get("dtype", "auto"), variant=variant)
    named = ("model_path", "vae_path", "dino", "adapter", "upscale_model")
    known = Models.of(model_files(variant, **{name: models.get(name) for name in named}))
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    rate, seconds = matrix_rate(device, dtype), 0.0
    for path in pictures:
        with opened(path, max_megapixels=max_megapixels) as image:
            width, height = image.size if image.getexif().get(0x0112, 1) < 5 else image.size[::-1]  # turned upright
        found = forecast(
            settings, known, height=height, width=width, dtype=dtype, weights=models.get("weights", "full")
        )
        seconds += found.seconds(rate)
        said = found.lines(rate, room=gpu.total_memory if gpu else None)
        yield f"{path}: " + "\n  ".join(said)
    where = gpu.name if gpu else f"{device.type}, {torch.get_num_threads()} threads"
    asked = "" if known.known else ", with FLUX.1's sizes, as the model is not on this disk yet"
    yield f"{plural(len(pictures), 'picture')}, about {spoken(seconds)} on {where}{asked}; nothing was loaded or written"
