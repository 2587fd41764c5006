"""What a picture file says beside its pixels, from one file to another."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from .containers import UNREADABLE

XMP = "XML:com.adobe.xmp"  # of PNG's texts
RANGES = ((254, 270), (273, 282), (301, 305), (317, 326), (336, 343), (512, 534))
SINGLE = (284, 288, 289, 290, 291, 330, 332, 334, 347, 700, 33723, 34377, 34675)
LAYOUT = {*SINGLE, *(tag for first, end in RANGES for tag in range(first, end))}  # tags about the file
PARTS = {int(ExifTags.IFD.Exif), int(ExifTags.IFD.GPSInfo)}
NOT_INNER = {0xA002, 0xA003, 0xA005}  # width, height, and a place in the file that was read
MARKER = 65504  # bytes of EXIF or XMP that a JPEG holds
MOST_DPI = 1e6
RECIPE = "dinotile"  # keyword of a PNG's text, and the first key of what other formats have as EXIF's user comment
COMMENT, ASCII = int(ExifTags.Base.UserComment), b"ASCII\0\0\0"


@dataclass(frozen=True)
class Metadata:
    """exif: as bytes, without orientation and size, which are the pixels'. texts: of a PNG, by keyword. recipe: how the picture
    was made, JSON in ASCII with the first key ``RECIPE``."""

    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    recipe: str = ""

    @classmethod
    def of(cls, image: Image.Image, *, info: dict[Any, Any] | None = None) -> Metadata:
        """Of a decoded picture; what is damaged is left out, with a warning. info: after it was turned upright."""
        info = image.info if info is None else info
        texts = {}
        for key, text in info.items():
            if isinstance(text, str) and image.format == "PNG" and key != XMP and not key.startswith("Raw profile"):
                texts[key] = str(text)
        recipe = texts.pop(RECIPE, "") or _recipe(image)
        xmp = info.get("xmp") or info.get(XMP, b"")  # where older Pillows have it
        xmp = xmp.encode() if isinstance(xmp, str) else xmp
        return cls(_bytes(info.get("icc_profile")), _exif(image), _bytes(xmp), _dpi(info.get("dpi")), texts, recipe)

    def options(self, form: str) -> dict[str, Any]:
        """For Pillow's ``save`` in a format, as far as it holds them."""
        room = MARKER if form == "JPEG" else math.inf
        options: dict[str, Any] = {}
        exif = _commented(self.exif, self.recipe) if self.recipe and form != "PNG" else self.exif
        exif = exif if len(exif) <= room else self.exif
        for name, content in (("icc_profile", self.icc), ("exif", exif), ("xmp", self.xmp)):
            if content and (len(content) <= room or name == "icc_profile"):
                options[name] = content
        if self.dpi is not None and form != "WEBP":
            options["dpi"] = self.dpi
        if form == "PNG":
            options["pnginfo"] = info = PngImagePlugin.PngInfo()
            for key, text in {**self.texts, **({RECIPE: self.recipe} if self.recipe else {})}.items():
                info.add_text(key, text, zip=len(text) > 1000)
            if self.xmp:
                info.add_itxt(XMP, self.xmp.decode("utf-8", "replace"))
        return options

    def lacking(self, written: Metadata) -> list[str]:
        """The names of what is here and not in ``written``."""
        names = {
            "icc": "colour profile",
            "exif": "EXIF",
            "xmp": "XMP",
            "dpi": "dpi",
            "texts": "PNG text",
            "recipe": "recipe",
        }
        return [title for name, title in names.items() if getattr(self, name) and not getattr(written, name)]


def _bytes(content: Any) -> bytes:
    return content if isinstance(content, bytes) else b""


def _dpi(given: Any) -> tuple[float, float] | None:
    try:
        x, y = (float(side) for side in given)
    except (TypeError, ValueError, ArithmeticError):
        return None
    return (x, y) if 0 < x < MOST_DPI and 0 < y < MOST_DPI else None


def _exif(image: Image.Image) -> bytes:
    try:
        known, kept = image.getexif(), Image.Exif()
        for tag, value in known.items():
            if tag not in LAYOUT | PARTS:
                kept[tag] = value
        for part in PARTS:
            inner = {tag: value for tag, value in known.get_ifd(part).items() if tag not in NOT_INNER}
            if _is_recipe(inner.get(COMMENT)):
                del inner[COMMENT]
            if inner:
                kept[part] = inner
        return kept.tobytes() if len(kept) else b""
    except UNREADABLE:
        warnings.warn("its EXIF is damaged", stacklevel=2)
        return b""


def _is_recipe(comment: Any) -> bool:
    return isinstance(comment, bytes) and comment.startswith(ASCII + b'{"' + RECIPE.encode())


def _recipe(image: Image.Image) -> str:
    try:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(COMMENT)
    except UNREADABLE:
        return ""
    return str(comment[len(ASCII) :], "ascii", "replace") if comment and _is_recipe(comment) else ""


def _blank(comment: Any) -> bool:
    """Whether a user comment is its 8 bytes of kind and nothing more, as many cameras write it."""
    return comment is None or (isinstance(comment, bytes) and not comment[8:].strip(b" \0"))


def _commented(exif: bytes, recipe: str) -> bytes:
    """The same with the recipe as user comment, unless there is another comment."""
    known = Image.Exif()
    known.load(exif)
    inner = known.get_ifd(ExifTags.IFD.Exif)
    known[ExifTags.IFD.Exif] = (
        {**inner, COMMENT: ASCII + recipe.encode("ascii")} if _blank(inner.get(COMMENT)) else inner
    )
    return known.tobytes()
