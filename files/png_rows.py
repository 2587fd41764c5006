"""A PNG of 8 bits read some rows at a time.

Pillow decodes whole files only. So a file of some rows is made of the whole one: its palette and transparency, the packed rows as
they are, and before them the last row of those that went before, which they may be differences from. And what it says beside
its pixels, in whatever place of the file, is read from a file of one pixel that says the same.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from .containers import UNREADABLE
from .deep import chunk

MARK = b"\x89PNG\r\n\x1a\n"
BYTES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by PNG's colour type
HEADS = (b"PLTE", b"tRNS")
WORDS = (b"eXIf", b"iCCP", b"iTXt", b"pHYs", b"tEXt", b"zTXt")  # may stand behind the pixels, too
MOVING = b"acTL"
ORIENTATION = 0x0112  # of EXIF
READ = 1 << 20


class PngRows:
    """Rows of the file, forward; ``start`` begins anew. ValueError for a damaged file."""

    def __init__(self, path: Path) -> None:
        """ValueError too for a PNG that is not read so: see ``by_rows``."""
        self.path = path
        with path.open("rb") as file:
            self.heads, head = _heads(file)
        if head is None:
            raise ValueError("it is interlaced, of other bits than 8, of several frames, or lies on its side")
        self.width, self.height, self.colours = head
        self.alpha = self.colours in (4, 6) or any(kind == b"tRNS" for kind, _ in self.heads)
        self.grey = self.colours in (0, 4)
        self.start()

    def start(self) -> None:
        self.at, self.above, self.rest = 0, b"", b""
        self.scanlines = _unpacked(self.path)

    def read(self, count: int) -> Image.Image:
        """The next rows, as Pillow reads them."""
        row = 1 + self.width * BYTES[self.colours]
        while len(self.rest) < count * row:
            more = next(self.scanlines, b"")
            if not more:
                raise ValueError(f"it ends in row {self.at + len(self.rest) // row} of {self.height}")
            self.rest += more
        rows, self.rest = self.rest[: count * row], self.rest[count * row :]
        before = b"" if not self.above else b"\0" + self.above
        size = struct.pack(">IIBBBBB", self.width, count + bool(before), 8, self.colours, 0, 0, 0)
        image = _opened([(b"IHDR", size), *self.heads, (b"IDAT", zlib.compress(before + rows, 0))])
        self.above, self.at = np.asarray(image)[-1].tobytes(), self.at + count
        return image if not before else image.crop((0, 1, *image.size))


def by_rows(path: Path) -> bool:
    """Whether a file is a PNG that ``PngRows`` reads: of 8 bits, not interlaced, one frame, upright."""
    with path.open("rb") as file:
        if file.read(8) != MARK:
            return False
        file.seek(0)
        try:
            return _heads(file)[1] is not None
        except UNREADABLE:
            return False  # whoever reads it whole says why


def words(path: Path) -> Image.Image:
    """A picture of one pixel that says what the file says beside its pixels."""
    with path.open("rb") as file:
        return _words([(kind, data) for kind, data in _chunks(file, pixels=False) if kind in WORDS])


def _words(chunks: list[tuple[bytes, bytes]]) -> Image.Image:
    size, pixel = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), zlib.compress(b"\0\0")
    return _opened([(b"IHDR", size), *chunks, (b"IDAT", pixel)])


def _opened(chunks: list[tuple[bytes, bytes]]) -> Image.Image:
    parts = b"".join(chunk(kind, data) for kind, data in [*chunks, (b"IEND", b"")])
    image = Image.open(BytesIO(MARK + parts), formats=("PNG",))
    image.load()
    return image


def _heads(file: BinaryIO) -> tuple[list[tuple[bytes, bytes]], tuple[int, int, int] | None]:
    """What tells how the pixels are meant, and width, height and colour type where they can be read by rows."""
    heads, said, head = [], [], None
    for kind, data in _chunks(file, pixels=False):
        if kind == b"IHDR":
            width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", data)
            head = (width, height, colours) if bits == 8 and not interlaced and colours in BYTES else None
        elif kind == MOVING:
            head = None
        elif kind in HEADS:
            heads.append((kind, data))
        elif kind in WORDS:
            said.append((kind, data))
    upright = head is None or _words(said).getexif().get(ORIENTATION, 1) == 1
    return heads, head if upright else None


def _unpacked(path: Path) -> Iterator[bytes]:
    """The rows' bytes, each row with its filter before it."""
    unpacker = zlib.decompressobj()
    with path.open("rb") as file:
        for kind, data in _chunks(file, pixels=True):
            if kind == b"IDAT":
                while data:
                    try:
                        yield unpacker.decompress(data, READ)
                    except zlib.error as error:
                        raise ValueError(f"its pixels are damaged: {error}") from error
                    data = unpacker.unconsumed_tail


def _chunks(file: BinaryIO, *, pixels: bool) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each; without ``pixels`` those are passed over."""
    file.seek(len(MARK))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT" and not pixels:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        data, check = file.read(length), file.read(4)
        if len(data) != length or check != struct.pack(">I", zlib.crc32(kind + data)):
            raise ValueError(f"its part {kind.decode('ascii', 'replace')} is damaged or not whole")
        yield kind, data
        if kind == b"IEND":
            return
