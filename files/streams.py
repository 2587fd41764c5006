"""Picture files written row by row, whole or not at all, as a result comes that is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .containers import UNREADABLE
from .deep import BIG, PngPacker, bigtiff_head, chunk, png_shell, tiff_head
from .metadata import Metadata
from .pictures import Picture, encoded, save_picture, to_array
from .writing import abandoned_parts, check_picture_output, hold, replacing

STREAMED = ("PNG", "TIFF")
BLOCK = 2**24  # bytes that are moved at a time
Write = Callable[[Tensor, Tensor | None], None]


class Written:
    """Takes rows [1, 3, n, W] in 0..1 and their alpha [1, 1, n, W] or None, from the top. form: what the file says beside them,
    which may become more until the end. note: once all is written, what of the picture the file does not hold, as
    ``save_picture`` says it; or empty."""

    def __init__(self, take: Write, form: Form) -> None:
        self.take, self.form, self.note = take, form, ""

    def __call__(self, pixels: Tensor, alpha: Tensor | None) -> None:
        self.take(pixels, alpha)


@dataclass(frozen=True)
class Form:
    """What a picture is beside its pixels, as in ``Picture``; alpha: whether it has transparency."""

    alpha: bool = False
    grey: bool = False
    deep: bool = False
    metadata: Metadata = Metadata()

    @property
    def channels(self) -> int:
        return (1 if self.grey else 3) + self.alpha

    def lost(self, path: Path, *, height: int, width: int) -> str:
        """What of a picture of this size a file at ``path`` does not hold, as ``save_picture`` says it; or empty."""
        pixel = np.zeros((1, 1, self.channels), np.uint16 if self.deep else np.uint8)
        _, note = encoded(_picture(pixel, self), path)
        if _kind(path) != "TIFF" or _tiff_bytes(self, height, width) <= BIG:
            return note
        names = self.metadata.lacking(replace(self.metadata, exif=b"", recipe=""))
        big = f"{path.name}: a TIFF of this size does not hold the picture's {', '.join(names)}, which was left out"
        return "; ".join([*([note] if note else []), *([big] if names else [])])


@contextmanager
def written(path: Path, form: Form, *, height: int, width: int) -> Iterator[Written]:
    """``with written(...) as write``: rows go to a PNG or a TIFF, losslessly; to files of other kinds when all of them are there.
    ``path`` is as it was after any error."""
    check_picture_output(path, height=height, width=width)
    for part in abandoned_parts(path):  # as large as the result, where a run was killed
        part.unlink(missing_ok=True)
    kind = _kind(path)
    if kind not in STREAMED:
        rows: list[np.ndarray] = []
        write = Written(lambda pixels, alpha: rows.append(_levels(pixels, alpha, form)), form)
        yield write
        write.note = save_picture(_picture(np.concatenate(rows), write.form), path) or ""
        return
    shell, stream = (_png_shell, _png) if kind == "PNG" else (_tiff_shell, _tiff)
    with replacing(path) as part, part.open("w+b") as file:
        hold(file)
        begin, end = shell(form, height, width)
        file.write(begin)
        rest = stream(file, form, width)
        write = Written(next(rest), form)
        yield write
        next(rest, None)  # what of the rows is still to come
        file.write(end)
        if write.form != form:
            _head(file, shell(write.form, height, width)[0], instead=len(begin))
    write.note = write.form.lost(path, height=height, width=width)


def _head(file: IO[bytes], begin: bytes, *, instead: int) -> None:
    """Have a file begin so, in place of so many bytes."""
    more, last = len(begin) - instead, file.seek(0, 2)
    starts = range(instead, last, BLOCK)
    for start in starts if more < 0 else reversed(starts):  # so that nothing is written over before it is moved
        file.seek(start)
        block = file.read(min(BLOCK, last - start))
        file.seek(start + more)
        file.write(block)
    file.truncate(last + more)
    file.seek(0)
    file.write(begin)


def _kind(path: Path) -> str:
    return Image.registered_extensions()[path.suffix.lower()]


def _png_shell(form: Form, height: int, width: int) -> tuple[bytes, bytes]:
    bits = 16 if form.deep else 8
    try:
        return png_shell(height, width, form.channels, bits=bits, **form.metadata.options("PNG"))
    except UNREADABLE:  # of what a file said that Pillow read and cannot write; the picture is worth more
        return png_shell(height, width, form.channels, bits=bits)


def _png(file: IO[bytes], form: Form, width: int) -> Iterator[Write]:
    packer = PngPacker(width * form.channels * (16 if form.deep else 8) // 8)

    def write(pixels: Tensor, alpha: Tensor | None) -> None:
        packed = packer.pack(_levels(pixels, alpha, form))
        if packed:
            file.write(chunk(b"IDAT", packed))

    yield write
    file.write(chunk(b"IDAT", packer.end()))


def _tiff_shell(form: Form, height: int, width: int) -> tuple[bytes, bytes]:
    channels, bits = _tiff_channels(form), 16 if form.deep else 8
    head = bigtiff_head if _tiff_bytes(form, height, width) > BIG else tiff_head
    try:
        return head(height, width, channels, bits=bits, **form.metadata.options("TIFF")), b""
    except UNREADABLE:  # as in a PNG
        return head(height, width, channels, bits=bits), b""


def _tiff(file: IO[bytes], form: Form, width: int) -> Iterator[Write]:
    def write(pixels: Tensor, alpha: Tensor | None) -> None:
        array = _levels(pixels, alpha, form)
        array = array[..., [0, 0, 0, 1]] if array.shape[2] == 2 else array
        file.write(array.astype(array.dtype.newbyteorder("<")).tobytes())

    yield write


def _tiff_channels(form: Form) -> int:
    return 4 if form.channels == 2 else form.channels  # TIFF readers know no grey with alpha


def _tiff_bytes(form: Form, height: int, width: int) -> int:
    return height * width * _tiff_channels(form) * (2 if form.deep else 1)


def _levels(pixels: Tensor, alpha: Tensor | None, form: Form) -> np.ndarray:
    """[n, W, C] in 8 or 16 bits."""
    top, kind = (65535, np.uint16) if form.deep else (255, np.uint8)
    return to_array(pixels, alpha, grey=form.grey, top=top, kind=kind)


def _picture(levels: np.ndarray, form: Form) -> Picture:
    values = torch.from_numpy(levels.astype(np.float32) / (65535 if form.deep else 255)).permute(2, 0, 1)[None]
    colours = 1 if form.grey else 3
    alpha = values[:, colours:] if form.alpha and bool((values[:, colours:] < 1).any()) else None
    pixels = values[:, :colours].expand(-1, 3, -1, -1)
    return Picture(pixels, alpha, form.metadata.icc or None, form.grey, form.deep, form.metadata)
