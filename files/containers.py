"""Opening picture files: by what they begin with, and none that is too large or not whole."""

from __future__ import annotations

import math
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from .errors import BROKEN
from .kinds import FORMATS, MEGAPIXELS

PLUGINS = (PngImagePlugin, JpegImagePlugin, WebPImagePlugin, TiffImagePlugin, BmpImagePlugin, GifImagePlugin)
# At most so many pixels in a byte: 64 of a JPEG take a bit; deflate packs 1032 to 1, LZW less, and a byte may be 8 pixels.
# More would be allocated before the decoder finds nothing to put there. Of the other kinds none allocates by the claim.
MOST_PIXELS = {"JPEG": 1024, "MPO": 1024, "tiff_adobe_deflate": 8300, "tiff_deflate": 8300, "tiff_lzw": 11_500}
LIMIT = threading.Lock()
UNREADABLE = (*BROKEN, OSError, EOFError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError)


class UnfitError(ValueError):
    """A picture is whole, and not taken."""


@contextmanager
def opened(file: Path | BinaryIO, *, max_megapixels: float | None = MEGAPIXELS) -> Iterator[Image.Image]:
    """The picture in a file, not decoded yet; raises what Pillow raises, and ``UnfitError`` for a picture that is not taken."""
    if isinstance(file, Path):
        with file.open("rb") as content:
            with opened(content, max_megapixels=max_megapixels) as image:
                yield image
        return
    with _limit_lifted():
        image = _identified(file)
    try:
        if max_megapixels is not None:
            check_size(*image.size, max_megapixels=max_megapixels)
        _check_claim(image, length=file.seek(0, os.SEEK_END))
        _check_layout(image)
        yield image
    finally:
        image.close()


def decoded(image: Image.Image) -> Image.Image:
    """An opened picture with its pixels; of a TIFF, Pillow looks at its limit once more for them."""
    large = image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf)
    with _limit_lifted() if large and image.format == "TIFF" else nullcontext():
        image.load()
    return image


def _check_claim(image: Image.Image, *, length: int) -> None:
    """Raise ValueError where so many bytes cannot hold a picture of that size, or hold a part of it only."""
    kind = str(image.info.get("compression") if image.format == "TIFF" else image.format)
    if image.width * image.height > MOST_PIXELS.get(kind, math.inf) * length:
        raise ValueError(f"the file is too short for a {image.format} of {image.width} x {image.height} px")
    tiles: Any = getattr(image, "tile", None)
    if image.format == "TIFF" and tiles:
        right, bottom = (max(tile[1][side] for tile in tiles) for side in (2, 3))
        if not any(right >= width and bottom >= height for width, height in (image.size, image.size[::-1])):  # turned
            raise ValueError(f"{right} x {bottom} px are there of {image.width} x {image.height} px")


def _check_layout(image: Image.Image) -> None:
    """Raise ``UnfitError`` where Pillow would read other pixels than are there."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    bits, tags = image.tag_v2.get(258, (1,)), image.tag_v2
    if max(bits) > 8 and (tags.get(262) == 0 or (tags.get(284) == 2 and len(bits) > 1)):
        how = "count from white to black" if tags.get(262) == 0 else "lie in a plane for each colour"
        raise UnfitError(f"its {max(bits)} bits for a colour {how}: save it as a PNG")


@contextmanager
def _limit_lifted() -> Iterator[None]:
    """Without Pillow's own limit, a number for the whole process, which stays as it was."""
    with LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


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
