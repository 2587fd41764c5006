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
    height, width, channels = array.shape
    shell = BytesIO()
    Image.new({1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels], (1, 1)).save(shell, format="PNG", **options)
    head = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOURS[channels], 0, 0, 0)
    out = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in _chunks(shell.getvalue()):
        if kind == b"IDAT":
            out += [_chunk(kind, packed) for packed in _packed(array)]
        else:
            out.append(_chunk(kind, head if kind == b"IHDR" else data))
    return b"".join(out)


def tiff(array: np.ndarray, **options: Any) -> bytes:
    """``array`` [H, W, 1 to 4], uint16, as an uncompressed TIFF, grey with alpha in colours; options: as for ``png``."""
    if array.shape[2] == 2:
        array = array[..., [0, 0, 0, 1]]
    height, width, channels = array.shape
    tags = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    data = array.astype("<u2").tobytes()
    tags[256], tags[257], tags[258], tags[259], tags[262] = width, height, (16,) * channels, 1, min(channels, 2)
    tags[273], tags[277], tags[278], tags[279], tags[284] = 0, channels, height, len(data), 1  # 273 is set when written
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
    return out.getvalue() + data


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += length + 12


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _packed(array: np.ndarray) -> Iterator[bytes]:
    """The rows, each as what it differs by from the row above (PNG's filter 2), packed some rows at a time."""
    packer, above = zlib.compressobj(), np.zeros((1, 2 * array[0].size), np.uint8)
    rows = max(1, BLOCK // above.size)
    for start in range(0, len(array), rows):
        part = array[start : start + rows].astype(">u2").reshape(-1, array[0].size).view(np.uint8)
        steps = part - np.concatenate([above, part[:-1]])
        above = part[-1:]
        yield packer.compress(np.insert(steps, 0, 2, axis=1).tobytes())
    yield packer.flush()
