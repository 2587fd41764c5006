"""The six kinds of picture file that are opened, and how large a picture may be."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from .errors import BROKEN

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")  # EPS and others start programs or are decoded by rare code
PLUGINS = (PngImagePlugin, JpegImagePlugin, WebPImagePlugin, TiffImagePlugin, BmpImagePlugin, GifImagePlugin)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
MEGAPIXELS = 500.0
UNREADABLE = (*BROKEN, OSError, EOFError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError)


class UnfitError(ValueError):
    """A picture is whole, and not taken."""


@contextmanager
def opened(file: Path | BinaryIO, *, max_megapixels: float | None = MEGAPIXELS) -> Iterator[Image.Image]:
    """The picture in a file, not decoded yet; raises what Pillow raises, and ``UnfitError`` for a picture that is too large.

    Pillow's own limit is a global number for the whole process, a third of ours; so its formats are called directly.
    """
    if isinstance(file, Path):
        with file.open("rb") as content:
            with opened(content, max_megapixels=max_megapixels) as image:
                yield image
        return
    image = _identified(file)
    try:
        if max_megapixels is not None:
            check_size(*image.size, max_megapixels=max_megapixels)
        yield image
    finally:
        image.close()


def check_size(width: int, height: int, *, max_megapixels: float) -> None:
    if not (math.isfinite(max_megapixels) and max_megapixels > 0):
        raise ValueError(f"max megapixels {max_megapixels} must be above 0: usually 500")
    if width * height > max_megapixels * 1e6:
        raise UnfitError(
            f"{width} x {height} px are {width * height / 1e6:.6g} megapixels, {max_megapixels:g} are allowed: "
            "raise --max-megapixels, or cut or shrink the picture"
        )


def _identified(file: BinaryIO) -> Image.Image:
    file.seek(0)
    prefix = file.read(16)
    for form in FORMATS:
        factory, accept = Image.OPEN[form]
        if accept is None or accept(prefix) is True:
            file.seek(0)
            return factory(file, "")
    raise ValueError(f"it starts with {prefix[:8]!r}, and is none of {', '.join(FORMATS)}")
