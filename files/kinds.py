"""The kinds of picture file that are opened, what they end in, and how large a picture may be."""

from __future__ import annotations

MOST_STORED = 100.0  # GiB of finished tiles, where nobody says more
MEGAPIXELS = 500.0  # of a picture that is read, where nobody says more
ENDINGS = {  # EPS and others start programs or are decoded by rare code
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
}
FORMATS = tuple(ENDINGS)
SUFFIXES = tuple(suffix for suffixes in ENDINGS.values() for suffix in suffixes)
SIDES = {"PNG": 2**31 - 1, "JPEG": 65500, "WEBP": 16383, "TIFF": 2**31 - 1}  # of the kinds that are written, at most
LONGEST_SIDE = {suffix: side for form, side in SIDES.items() for suffix in ENDINGS[form]}
