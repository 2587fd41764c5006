"""Pictures from and to files: upright, RGB, with their transparency and colour profile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .writing import check_picture_output, replacing


@dataclass(frozen=True)
class Picture:
    """``pixels`` [1,3,H,W] and ``alpha`` [1,1,H,W] or None, both float32 in 0..1; ``icc`` is the RGB colour profile."""

    pixels: Tensor
    alpha: Tensor | None = None
    icc: bytes | None = None

    @property
    def on_white(self) -> Tensor:
        """The pixels with their transparency on a white ground."""
        return self.pixels if self.alpha is None else self.pixels * self.alpha + (1 - self.alpha)


def load_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture file upright (EXIF orientation applied) and as RGB, whatever its mode. Raises ValueError."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist: give the path of a picture")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the path of a picture")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes): give the path of a picture")
    try:
        image = upright(path)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large a picture: {error}") from error
    except PermissionError as error:
        raise ValueError(f"{path} may not be read: change its permissions") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a readable picture ({error}): give a PNG, JPEG, WebP or TIFF file") from error
    return from_image(image)


def upright(file: Path | BinaryIO) -> Image.Image:
    """A picture file with its EXIF orientation applied; raises what PIL raises."""
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        image.load()
    return image


def from_image(image: Image.Image) -> Picture:
    """A PIL image of any mode as a ``Picture``. 16-bit and float grey keep their precision."""
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32)
        if image.mode != "F":
            grey /= 65535.0
        if not np.isfinite(grey).all():
            raise ValueError("the picture has pixels that are NaN or infinite: mend it or convert it to 8 bit")
        if grey.min() < 0 or grey.max() > 1:
            raise ValueError(f"{image.mode} picture has values outside its range: convert it to 8 or 16 bit")
        return Picture(torch.from_numpy(grey).expand(1, 3, -1, -1).contiguous())
    icc = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
    if not image.has_transparency_data:
        return Picture(_tensor(image.convert("RGB")), icc=icc)
    rgba = _tensor(image.convert("RGBA"))  # [1, 4, H, W]
    alpha = rgba[:, 3:]
    return Picture(rgba[:, :3].contiguous(), None if bool((alpha == 1).all()) else alpha.contiguous(), icc)


def to_image(pixels: Tensor, *, alpha: Tensor | None = None) -> Image.Image:
    """``pixels`` [1,3,H,W] in 0..1 (and ``alpha`` [1,1,H,W]) as an 8-bit RGB or RGBA image; ValueError for NaN and infinity."""
    channels = pixels if alpha is None else torch.cat([pixels, alpha], dim=1)
    if not bool(channels.isfinite().all()):
        raise ValueError("the picture has pixels that are NaN or infinite: look for the step that made them")
    array = channels[0].float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()  # [H, W, C]
    return Image.fromarray(np.ascontiguousarray(array))


def save_picture(picture: Picture, path: str | os.PathLike[str]) -> str | None:
    """Write ``path`` whole or not at all. Returns a note where the format could not hold all of the picture.

    PNG, WebP and TIFF are written without loss; JPEG at quality 95 on a white ground.
    """
    path = Path(path)
    check_picture_output(path, height=picture.pixels.shape[-2], width=picture.pixels.shape[-1])
    form, note = Image.registered_extensions()[path.suffix.lower()], None
    pixels, alpha = picture.pixels, picture.alpha
    if alpha is not None and form == "JPEG":
        pixels, alpha = picture.on_white, None
        note = f"{path.name}: JPEG has no transparency, so the picture was put on white; write a .png to keep it"
    options: dict[str, Any] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    if picture.icc:
        options["icc_profile"] = picture.icc
    image = to_image(pixels, alpha=alpha)
    content = BytesIO()  # PIL, writing JPEG and TIFF to a file itself, does not notice that a disk took only a part
    with replacing(path) as part:
        image.save(content, format=form, **options)
        part.write_bytes(content.getbuffer())
    return note


def _tensor(image: Image.Image) -> Tensor:
    array = np.array(image, dtype=np.float32) / 255.0  # [H, W, C]
    return torch.from_numpy(array).permute(2, 0, 1)[None].contiguous()
