"""Colours of 16 bits, which Pillow reads and writes in grey only.

Reading: Pillow takes the high byte of each colour. Told that the bytes lie the other way round it takes the low one, so that
two passes have both. Writing: Pillow makes a file of the same kind of one pixel, with all but the pixels, which are put in.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

DEEP = re.compile(r"(RGB|RGBA|LA);16([BLN])")
OTHER = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}
PARTS = (int(ExifTags.IFD.Exif), int(ExifTags.IFD.GPSInfo))
PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's colour types by channels
BLOCK = 1 << 24  # bytes that are packed at once


def raw_mode(image: Image.Image) -> str:
    """How the colours of a picture that is not decoded yet lie in its file, or nothing where they have 8 bits, or are grey."""
    tiles: Any = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) and ";16" in mode and not mode.startswith("I") else ""


def readable(mode: str) -> bool:
    return DEEP.fullmatch(mode) is not None


def take_low_bytes(image: Image.Image, mode: str) -> None:
    """Let a picture that is not decoded yet be decoded to the low bytes of its colours."""
    _read_as(image, f"{mode[:-1]}{OTHER[mode[-1]]}")


def take_all_bytes(image: Image.Image) -> None:
    """The same for grey with alpha: to four channels, which are the high and the low byte of both."""
    _read_as(image, "RGBA")


def _read_as(image: Image.Image, mode: str) -> None:
    tiles: list[Any] = []
    for tile in image.tile:  # type: ignore[attr-defined]
        args = (mode, *tile[3][1:]) if isinstance(tile[3], tuple) else mode
        tiles.append(tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args))
    image.tile = tiles  # type: ignore[attr-defined]


def png(array: np.ndarray, **options: Any) -> bytes:
    """``array`` [H, W, 1 to 4], uint16, as a PNG; options: of Pillow's, such as icc_profile, exif, dpi and pnginfo."""
    begin, end = png_shell(*array.shape, bits=16, **options)
    return b"".join([begin, *(chunk(b"IDAT", packed) for packed in _packed(array)), end])


def png_shell(height: int, width: int, channels: int, *, bits: int, **options: Any) -> tuple[bytes, bytes]:
    """What stands in a PNG before its pixels and after them."""
    shell, parts = BytesIO(), [b"\x89PNG\r\n\x1a\n", b""]
    Image.new({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels], (1, 1)).save(shell, format="PNG", **options)
    head = struct.pack(">IIBBBBB", width, height, bits, PNG_COLOURS[channels], 0, 0, 0)
    after = 0
    for kind, data in _chunks(shell.getvalue()):
        if kind == b"IDAT":
            after = 1
        else:
            parts[after] += chunk(kind, head if kind == b"IHDR" else data)
    return parts[0], parts[1]


def tiff(array: np.ndarray, **options: Any) -> bytes:
    """``array`` [H, W, 1 to 4], uint16, as an uncompressed TIFF, grey with alpha in colours; options: as for ``png``."""
    if array.shape[2] == 2:
        array = array[..., [0, 0, 0, 1]]
    return tiff_head(*array.shape, bits=16, **options) + array.astype("<u2").tobytes()


def tiff_head(height: int, width: int, channels: int, *, bits: int, **options: Any) -> bytes:
    """What stands in an uncompressed TIFF before its pixels; channels: 1, 3 or 4."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    length = height * width * channels * bits // 8
    tags[256], tags[257], tags[258], tags[259], tags[262] = width, height, (bits,) * channels, 1, min(channels, 2)
    tags[273], tags[277], tags[278], tags[279], tags[284] = 0, channels, height, length, 1  # 273 is set when written
    if channels == 4:
        tags[338] = 2  # alpha that the colours are not multiplied with
    if "dpi" in options:
        tags[282], tags[283], tags[296] = (*options["dpi"], 2)
    for tag, name in ((34675, "icc_profile"), (700, "xmp")):
        if name in options:
            tags[tag] = options[name]
    if "exif" in options:
        exif = Image.Exif()
        exif.load(options["exif"])
        for tag, value in exif.items():
            tags[tag] = exif.get_ifd(tag) if tag in PARTS else value
    out = BytesIO()
    tags.save(out)
    return out.getvalue()


BIG = 2**32 - 2**24  # bytes, from which on a TIFF must be a BigTIFF


def bigtiff_head(height: int, width: int, channels: int, *, bits: int, **options: Any) -> bytes:
    """The same for one of any size: 64-bit offsets, and rows in strips; of the options icc_profile, xmp and dpi."""
    row = width * channels * bits // 8
    per = max(1, BLOCK // row)
    rows = [min(per, height - top) for top in range(0, height, per)]
    words = {
        256: [width],
        257: [height],
        258: [bits] * channels,
        259: [1],
        262: [min(channels, 2)],
        273: [0] * len(rows),
    }
    words |= {277: [channels], 278: [per], 279: [n * row for n in rows], 284: [1]}
    if channels == 4:
        words[338] = [2]
    values = {tag: (16, len(each), struct.pack(f"<{len(each)}Q", *each)) for tag, each in words.items()}
    for tag, name in ((700, "xmp"), (34675, "icc_profile")):
        if name in options:
            values[tag] = (7, len(options[name]), options[name])
    for tag, dpi in zip((282, 283), options.get("dpi", ()), strict=False):
        values[tag] = (5, 1, struct.pack("<II", round(dpi * 1000), 1000))
    if "dpi" in options:
        values[296] = (16, 1, struct.pack("<Q", 2))
    at = 16 + 8 + 20 * len(values) + 8  # of what does not stand in the directory itself
    places, total = {}, at
    for tag in sorted(values):
        if len(values[tag][2]) > 8:
            places[tag], total = total, total + len(values[tag][2])
    starts = accumulate(words[279][:-1], initial=total)
    values[273] = (16, len(rows), struct.pack(f"<{len(rows)}Q", *starts))
    out = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(values))
    for tag in sorted(values):
        kind, count, data = values[tag]
        out += struct.pack("<HHQ", tag, kind, count) + (
            struct.pack("<Q", places[tag]) if tag in places else data.ljust(8, b"\0")
        )
    return out + bytes(8) + b"".join(values[tag][2] for tag in sorted(values) if tag in places)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += length + 12


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _packed(array: np.ndarray) -> Iterator[bytes]:
    """The rows, packed some at a time."""
    packer = PngPacker(array.dtype.itemsize * array[0].size)
    rows = max(1, BLOCK // packer.above.size)
    for start in range(0, len(array), rows):
        yield packer.pack(array[start : start + rows])
    yield packer.end()


class PngPacker:
    """Packs rows, each as what it differs by from the row above (PNG's filter 2). row: bytes of one."""

    def __init__(self, row: int) -> None:
        self.packer, self.above = zlib.compressobj(), np.zeros((1, row), np.uint8)

    def pack(self, array: np.ndarray) -> bytes:
        """[n, W, C], of 8 or 16 bits."""
        part = array.astype(array.dtype.newbyteorder(">")).reshape(len(array), -1).view(np.uint8)
        steps = part - np.concatenate([self.above, part[:-1]])
        self.above = part[-1:].copy()
        return self.packer.compress(np.insert(steps, 0, 2, axis=1).tobytes())

    def end(self) -> bytes:
        return self.packer.flush()
