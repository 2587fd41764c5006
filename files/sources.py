"""A picture file of which rows are read as they are needed: a PNG of 8 bits by rows, any other kind whole, in its own bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .containers import UNREADABLE, opened
from .errors import reason
from .kinds import MEGAPIXELS
from .metadata import Metadata
from .pictures import Picture, from_image, load_picture, to_array
from .png_rows import ORIENTATION, PngRows, by_rows, words
from .streams import Form

SIDEWAYS = range(5, 9)  # of EXIF's orientations
UNFIT = "{}: its colour profile is of other colours than its pixels and was left out"
BLOCK = 64  # rows that are read at once
BEFORE = 3  # times as many rows as were asked for stay above those, as tiles come in rows that go back and forth


class Rows:
    """[1, 3 or 4, n, W] of any rows; what this is made of keeps to bytes."""

    def __init__(self, path: Path, height: int) -> None:
        self.path, self.height = path, height
        self.file: PngRows | None = None
        self.first, self.kept = 0, np.zeros((0, 0, 0), np.uint8)

    def __call__(self, top: int, bottom: int) -> np.ndarray:
        """[bottom - top, W, C], 8 or 16 bits; ValueError where the file is damaged there."""
        if self.file is None:
            return self.kept[top:bottom]
        if top < self.first:
            self.file.start()
            self.first, self.kept = 0, self.kept[:0]
        blocks = [self.kept]
        try:
            while self.file.at < bottom:
                blocks.append(_bytes(self.file, min(BLOCK, self.height - self.file.at)))
        except UNREADABLE as error:
            raise ValueError(
                f"{self.path} is not a readable picture ({reason(error)}): give a whole PNG file"
            ) from error
        kept = np.concatenate([block for block in blocks if len(block)])
        spare = max(0, top - BEFORE * (bottom - top) - self.first)
        self.first, self.kept = self.first + spare, kept[spare:].copy() if spare else kept
        return self.kept[top - self.first : bottom - self.first]


@dataclass(frozen=True, eq=False)
class PictureFile:
    """``upscaling.rows.Source`` of a file. note: what of the file is not in here."""

    height: int
    width: int
    form: Form
    read: Rows
    note: str = ""

    def rows(self, top: int, bottom: int) -> Tensor:
        values = _values(self.read(top, bottom))
        return values[:, : 1 if self.form.grey else 3].expand(-1, 3, -1, -1)

    def alpha(self, top: int, bottom: int) -> Tensor:
        return _values(self.read(top, bottom))[:, -1:]


def upright_size(path: Path, *, max_megapixels: float = MEGAPIXELS) -> tuple[int, int]:
    """Height and width of a picture file as ``load_picture`` turns it, by its head; ValueError where that cannot be read."""
    try:
        with opened(path, max_megapixels=max_megapixels) as image:
            width, height = image.size
            said = words(path) if image.format == "PNG" else image  # of a PNG, Pillow reads all pixels first
            return (width, height) if said.getexif().get(ORIENTATION, 1) in SIDEWAYS else (height, width)
    except UNREADABLE:
        height, width = load_picture(path, max_megapixels=max_megapixels).pixels.shape[-2:]  # which says why
        return height, width


def open_picture(path: Path, *, max_megapixels: float = MEGAPIXELS) -> PictureFile:
    """Of any picture file that ``load_picture`` reads; ValueError as there, but what is damaged of a PNG that is read by rows is
    noticed when it is reached."""
    try:
        rowed = path.is_file() and by_rows(path)
    except OSError:
        rowed = False
    if rowed:
        try:
            with opened(path, max_megapixels=max_megapixels):
                metadata = Metadata.of(words(path))
        except UNREADABLE:
            return _whole(path, max_megapixels)  # which says why
        file = PngRows(path)
        read = Rows(path, file.height)
        read.file = file
        fits = not metadata.icc or (metadata.icc[16:20] == b"GRAY") == file.grey
        form = Form(file.alpha, file.grey, False, replace(metadata, icc=metadata.icc if fits else b"", recipe=""))
        return PictureFile(file.height, file.width, form, read, "" if fits else UNFIT.format(path.name))
    return _whole(path, max_megapixels)


def _whole(path: Path, max_megapixels: float) -> PictureFile:
    picture = load_picture(path, max_megapixels=max_megapixels)
    height, width = picture.pixels.shape[-2:]
    read = Rows(path, height)
    read.kept = _levels(picture)
    metadata = replace(picture.metadata, icc=picture.icc or b"", recipe="")
    form = Form(picture.alpha is not None, picture.grey, picture.deep, metadata)
    return PictureFile(height, width, form, read, picture.note)


def _levels(picture: Picture) -> np.ndarray:
    pixels = picture.pixels[:, :1].expand(-1, 3, -1, -1) if picture.grey else picture.pixels
    top, kind = (65535, np.uint16) if picture.deep else (255, np.uint8)
    levels = to_array(pixels, picture.alpha, grey=False, top=top, kind=kind)
    return levels[..., [0, *range(3, levels.shape[2])]] if picture.grey else levels


def _bytes(file: PngRows, count: int) -> np.ndarray:
    """[count, W, C] of the next rows: colours, and alpha where the file has any."""
    image = file.read(count)
    picture = from_image(image)
    alpha = picture.alpha
    if file.alpha and alpha is None:
        alpha = torch.ones_like(picture.pixels[:, :1])
    levels = _levels(replace(picture, alpha=alpha, grey=file.grey))
    return levels


def _values(levels: np.ndarray) -> Tensor:
    most = 65535 if levels.dtype == np.uint16 else 255
    return torch.from_numpy(levels.astype(np.float32)).permute(2, 0, 1)[None].contiguous() / most
