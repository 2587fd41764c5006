"""A PNG of 8 bits read some rows at a time.

Pillow decodes whole files only. So a file of some rows is made of the whole one: its palette and transparency, the packed rows as
they are, and before them the last row of those that went before, which they may be differences from.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from .deep import chunk

MARK = b"\x89PNG\r\n\x1a\n"
BYTES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by PNG's colour type
HEADS = (b"PLTE", b"tRNS")
TURNED = b"eXIf"  # may say that the picture lies on its side
READ = 1 << 20


class PngRows:
    """Rows of the file, forward; ``start`` begins anew. ValueError for a damaged file."""

    def __init__(self, path: Path) -> None:
        """ValueError too for a PNG that is not read so: see ``by_rows``."""
        self.path = path
        with path.open("rb") as file:
            self.heads, head = _heads(file)
        if head is None:
            raise ValueError("it is interlaced, of other bits than 8, or lies on its side")
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
        parts = [(b"IHDR", size), *self.heads, (b"IDAT", zlib.compress(before + rows, 0)), (b"IEND", b"")]
        image = Image.open(BytesIO(MARK + b"".join(chunk(kind, data) for kind, data in parts)), formats=("PNG",))
        image.load()
        self.above, self.at = np.asarray(image)[-1].tobytes(), self.at + count
        return image if not before else image.crop((0, 1, *image.size))


def by_rows(path: Path) -> bool:
    """Whether a file is a PNG that ``PngRows`` reads: of 8 bits, not interlaced, upright."""
    with path.open("rb") as file:
        if file.read(8) != MARK:
            return False
        file.seek(0)
        try:
            return _heads(file)[1] is not None
        except (ValueError, struct.error):
            return False  # whoever reads it whole says why


def _heads(file: BinaryIO) -> tuple[list[tuple[bytes, bytes]], tuple[int, int, int] | None]:
    """What tells how the pixels are meant, and width, height and colour type where they can be read by rows."""
    heads, head = [], None
    for kind, data in _chunks(file):
        if kind == b"IHDR":
            width, height, bits, colours, _, _, interlaced = struct.unpack(">IIBBBBB", data)
            head = (width, height, colours) if bits == 8 and not interlaced and colours in BYTES else None
        elif kind == TURNED:
            head = None
        elif kind in HEADS:
            heads.append((kind, data))
        elif kind == b"IDAT":
            break
    return heads, head


def _unpacked(path: Path) -> Iterator[bytes]:
    """The rows' bytes, each row with its filter before it."""
    unpacker = zlib.decompressobj()
    with path.open("rb") as file:
        for kind, data in _chunks(file):
            if kind == b"IDAT":
                while data:
                    try:
                        yield unpacker.decompress(data, READ)
                    except zlib.error as error:
                        raise ValueError(f"its pixels are damaged: {error}") from error
                    data = unpacker.unconsumed_tail


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    file.seek(len(MARK))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        data, check = file.read(length), file.read(4)
        if len(data) != length or check != struct.pack(">I", zlib.crc32(kind + data)):
            raise ValueError(f"its part {kind.decode('ascii', 'replace')} is damaged or not whole")
        yield kind, data
        if kind == b"IEND":
            return
