"""Pictures from and to files: upright, RGB, with their transparency and what else the file says."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .containers import UNREADABLE, UnfitError, decoded, opened
from .deep import png, raw_mode, readable, take_all_bytes, take_low_bytes, tiff
from .errors import kind_of, reason
from .kinds import FORMATS, MEGAPIXELS
from .metadata import Metadata
from .paths import path_of
from .writing import check_picture_output, replacing

_WARNINGS = Lock()  # Python catches them for all threads


@dataclass(frozen=True)
class Picture:
    """``pixels`` [1,3,H,W] and ``alpha`` [1,1,H,W] or None, both float32 in 0..1; ``icc`` is the RGB or grey colour profile.

    grey, deep: whether the file had no colours, and more than 8 bits. note: what of the file is not in here.
    """

    pixels: Tensor
    alpha: Tensor | None = None
    icc: bytes | None = None
    grey: bool = False
    deep: bool = False
    metadata: Metadata = Metadata()
    note: str = ""

    def __repr__(self) -> str:
        height, width = self.pixels.shape[-2:]
        kinds = ["grey" if self.grey else "RGB", "16 bits" if self.deep else "8 bits"]
        kinds += [name for name, has in (("alpha", self.alpha is not None), ("icc", bool(self.icc))) if has]
        return f"Picture({width} x {height} px, {', '.join(kinds)}, note={self.note[:60]!r})"

    @property
    def on_white(self) -> Tensor:
        """The pixels with their transparency on a white ground."""
        return self.pixels if self.alpha is None else self.pixels * self.alpha + (1 - self.alpha)


def load_picture(path: str | os.PathLike[str], *, max_megapixels: float = MEGAPIXELS) -> Picture:
    """Read a picture file upright (EXIF orientation applied) and as RGB, whatever its mode. Raises ValueError."""
    path = path_of(path, what="the picture")
    try:
        if path.stat().st_size == 0:  # pipes too, which would never end
            raise ValueError("it has 0 bytes")
        with _WARNINGS, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with opened(path, max_megapixels=max_megapixels) as image:
                picture = _read(image, path)
    except UnfitError as error:
        raise ValueError(f"{path}: {error}") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{path} does not exist: give the path of a picture") from error
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder: give the path of a picture") from error
    except PermissionError as error:
        raise ValueError(f"{path} may not be read: change its permissions") from error
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is not a readable picture ({reason(error)}): give a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        ) from error
    damage = [" ".join(str(warning.message).split()) for warning in told if warning.category is UserWarning]
    if not damage:
        return picture
    note = f"{path.name}: a part of it is damaged and was left out ({damage[0]})"
    return replace(picture, note=f"{picture.note}; {note}".removeprefix("; "))


def upright(file: Path | BinaryIO) -> Image.Image:
    """A picture file with its EXIF orientation applied, colours in 8 bits; raises what PIL raises."""
    with opened(file) as image:
        return ImageOps.exif_transpose(decoded(image))


def picture_of(image: Image.Image) -> Picture:
    """A PIL image upright, with what it says beside its pixels; 16-bit grey and float keep their precision."""
    if 0 in image.size:
        raise ValueError(
            f"the picture is {image.width} x {image.height} px, needed is at least 1 x 1: give one that shows something"
        )
    return _read(image, None)


def _read(image: Image.Image, file: Path | None) -> Picture:
    """A picture that may not be decoded yet; the second pass over deep colours opens its file again."""
    mode, notes = raw_mode(image), []
    twice = file is not None and readable(mode)
    if twice and mode.startswith("LA"):
        take_all_bytes(image)
    whole = ImageOps.exif_transpose(decoded(image))
    metadata = Metadata.of(image, info=whole.info)
    if getattr(image, "is_animated", False):
        notes.append("of its pages or frames the first was taken: split the file to have them all")
    if file is not None and twice:
        picture = _deep(whole, mode, file)
    else:
        if mode:
            notes.append(f"its colours ({mode}) were read in 8 bits")
        picture = from_image(whole)
    if metadata.icc and not picture.icc:
        notes.append(f"its colour profile is for {image.mode}, not for RGB, and was left out")
    note = "; ".join(f"{file.name if file else 'the picture'}: {note}" for note in notes)
    return replace(picture, metadata=replace(metadata, icc=picture.icc or b""), note=note)


def _deep(high: Image.Image, mode: str, file: Path) -> Picture:
    """16-bit colours, of which ``high`` has the high bytes (of grey with alpha: all)."""
    bytes_ = np.asarray(high).astype(np.uint16)  # [H, W, 3 or 4]
    if mode.startswith("LA"):
        array = bytes_[..., 0::2] << 8 | bytes_[..., 1::2]
    else:
        with opened(file, max_megapixels=None) as image:
            take_low_bytes(image, mode)
            array = bytes_ << 8 | np.asarray(ImageOps.exif_transpose(decoded(image)))
    clear = high.info.get("transparency")
    if isinstance(clear, tuple) and array.shape[2] == 3:  # the one colour that is not there
        array = np.concatenate(
            [array, 65535 * (array != np.array(clear)).any(2, keepdims=True).astype(np.uint16)], axis=2
        )
    values = torch.from_numpy(array.astype(np.float32) / 65535).permute(2, 0, 1)[None]
    colours = 1 if mode.startswith("LA") else 3
    icc = high.info.get("icc_profile")
    return _picture(values[:, :colours], values[:, colours:], icc=icc, grey=colours == 1, deep=True)


def from_image(image: Image.Image) -> Picture:
    """A PIL image of any mode as a ``Picture``. 16-bit and float grey keep their precision."""
    icc = image.info.get("icc_profile")
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32)
        if image.mode != "F":
            grey /= 65535.0
        if not np.isfinite(grey).all():
            raise UnfitError("the picture has pixels that are NaN or infinite: mend it or convert it to 8 bit")
        if grey.min() < 0 or grey.max() > 1:
            raise UnfitError(f"{image.mode} picture has values outside its range: convert it to 8 or 16 bit")
        values, clear = torch.from_numpy(grey)[None, None], image.info.get("transparency")
        alpha = (
            values[:, :0] if not isinstance(clear, int) else torch.ne(values, float(np.float32(clear / 65535))).float()
        )
        return _picture(values, alpha, icc=icc, grey=True, deep=True)
    grey = image.mode in ("1", "L", "LA", "La")
    values = _tensor(image.convert(f"{'L' if grey else 'RGB'}{'A' if image.has_transparency_data else ''}"))
    if image.mode == "P" and bool((values[:, :1] == values[:, :3]).all()):
        grey, values, icc = True, values[:, [0, *range(3, values.shape[1])]], None
    colours = 1 if grey else 3
    icc = icc if grey or image.mode in ("RGB", "RGBA", "P") else None
    return _picture(values[:, :colours], values[:, colours:], icc=icc, grey=grey, deep=False)


def _picture(colours: Tensor, alpha: Tensor, *, icc: bytes | None, grey: bool, deep: bool) -> Picture:
    """colours: [1, 1 or 3, H, W]. alpha: [1, 0 or 1, H, W]."""
    shown = None if bool((alpha == 1).all()) else alpha.contiguous()  # also where there is none
    return Picture(colours.expand(-1, 3, -1, -1).contiguous(), shown, icc, grey, deep)


def to_image(pixels: Tensor, *, alpha: Tensor | None = None, grey: bool = False) -> Image.Image:
    """``pixels`` [1,3,H,W] in 0..1 (and ``alpha`` [1,1,H,W]) as an 8-bit RGB, RGBA, L or LA image; ValueError for NaN and
    infinity."""
    array = to_array(pixels, alpha, grey=grey, top=255, kind=np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def to_array(pixels: Tensor, alpha: Tensor | None, *, grey: bool, top: int, kind: Any) -> np.ndarray:
    """[H, W, 1 to 4] in 0..top; grey is the luma of ITU-R 601, as in Pillow."""
    if grey:
        pixels = (pixels * pixels.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    channels = pixels if alpha is None else torch.cat([pixels, alpha], dim=1)
    if not bool(channels.isfinite().all()):
        raise ValueError("the picture has pixels that are NaN or infinite: look for the step that made them")
    scaled = channels[0].float().clamp(0, 1).mul(top).round().permute(1, 2, 0)  # [H, W, C]
    return np.ascontiguousarray(scaled.cpu().numpy().astype(kind))


def save_picture(picture: Picture, path: str | os.PathLike[str]) -> str | None:
    """Write ``path`` whole or not at all. Returns a note where the format could not hold all of the picture.

    PNG, WebP and TIFF are written without loss; JPEG at quality 95 on a white ground. Grey stays grey, and 16 bits stay
    16 bits in PNG and TIFF; EXIF, XMP, colour profile, dpi and PNG texts go along as far as the format holds them.
    """
    if not isinstance(picture, Picture):
        raise ValueError(f"the picture is {kind_of(picture)}, needed is a Picture: wrap pixels as Picture(pixels)")
    path = path_of(path, what="the output")
    check_picture_output(path, height=picture.pixels.shape[-2], width=picture.pixels.shape[-1])
    content, note = encoded(picture, path)
    with replacing(path) as part:
        part.write_bytes(content)
    return note or None


def encoded(picture: Picture, path: Path) -> tuple[bytes, str]:
    """What ``save_picture`` writes to ``path``, and its note."""
    form = Image.registered_extensions()[path.suffix.lower()]
    notes = [picture.note] if picture.note else []
    if picture.alpha is not None and form == "JPEG":
        picture = replace(picture, pixels=picture.on_white, alpha=None)
        notes.append(f"{path.name}: JPEG has no transparency, so the picture was put on white; write a .png to keep it")
    if picture.deep and form in ("JPEG", "WEBP"):
        notes.append(f"{path.name}: {form} has 8 bits for a colour, the picture had more; write a .png to keep them")
    metadata = replace(picture.metadata, icc=picture.icc or b"")
    try:
        content = _content(picture, form, metadata.options(form))
    except UNREADABLE:  # of what a file said that Pillow read and cannot write; the picture is worth more
        content = _content(picture, form, {})
    with opened(BytesIO(content), max_megapixels=None) as image:
        lost = metadata.lacking(Metadata.of(image))
    if lost:
        notes.append(f"{path.name}: {form} does not hold the picture's {', '.join(lost)}, which was left out")
    return content, "; ".join(notes)


def _content(picture: Picture, form: str, options: dict[str, Any]) -> bytes:
    """The file; from memory, because PIL, writing to a file itself, does not notice that a disk took only a part."""
    options |= {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    if form == "WEBP" and picture.grey:
        options.pop("icc_profile", None)  # it is for grey, and WebP holds colours only
    if picture.deep and form in ("PNG", "TIFF"):
        array = to_array(picture.pixels, picture.alpha, grey=picture.grey, top=65535, kind=np.uint16)
        return png(array, **options) if form == "PNG" else tiff(array, **options)
    content = BytesIO()
    to_image(picture.pixels, alpha=picture.alpha, grey=picture.grey).save(content, format=form, **options)
    return content.getvalue()


def _tensor(image: Image.Image) -> Tensor:
    array = np.array(image)  # [H, W, C] or [H, W], 8 bits
    array = array.reshape(*array.shape[:2], -1)
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous().float().div_(255)
