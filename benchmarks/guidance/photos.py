"""The photographs that the guidance is judged on. No demo model learned from them (``demo/train/pictures.py`` lists what those
learned from), and none is in this repository.

Most are of Debian's package lomiri-wallpapers-16.04 (15.8 MB; CC BY 4.0, CC BY-SA 4.0 and one CC0, its ``copyright`` tells which;
two of its fifteen are no photographs and left out), which need not be installed:

    apt-get download lomiri-wallpapers-16.04 && dpkg -x lomiri-wallpapers-16.04_*.deb FOLDER

The others are inside scikit-image's wheel: chelsea (the cat, CC0), stereo_motorcycle (CC0, Daniel Scharstein),
immunohistochemistry and coins (no known copyright).
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinotile.files.pictures import load_picture
from dinotile.files.pixels import resize
from dinotile.training.data.degrade import blur
from dinotile.upscaling.settings import UpscaleSettings

from .judges import Measure, judged
from .sweep import Subject

SIDE = 256  # px of a true picture
PHOTO_SETTINGS = UpscaleSettings(scale=2.0, tile=144, overlap=32)  # four tiles
# Of spoilt sources: standard deviation of pixels in 0..1, JPEG's, and a Gaussian's px
NOISE, QUALITY, BLUR = 0.06, 60, 0.5
SKIMAGE = "skimage "
NAMES = (  # the first few are of many kinds
    "skimage chelsea",
    "friends_by_Aitzol_Berasategi",
    "skimage stereo_motorcycle",
    "seeding_by_Clements_Engelhardt",
    "Wine_by_Jakkub_Mede",
    "skimage immunohistochemistry",
    "life_by_Aitzol_Berasategi",
    "Picture_1A_by_freespace",
    "Dragonfly_by_Bolly",
    "picosdeeuropa_by_Aitzol_Berasategi",
    "skimage coins",
    "greentock_by_Peter_Nerlich",
    "Picture_0B_by_freespace",
    "aitzgorri_by_Aitzol_Berasategi",
    "sunset_by_Aitzol_Berasategi",
    "free_by_Peter_Nerlich",
    "Bridge_by_Sander_Klootwijk",
)


def photographs(folder: Path | None, *, count: int) -> dict[str, Tensor]:
    """The first ``count`` by name, [1, 3, SIDE, SIDE] in 0..1: the middle square, shrunk. folder: where Debian's package was
    unpacked; None takes scikit-image's only. ValueError where there are not as many, or a file is missing."""
    names = [name for name in NAMES if folder is not None or name.startswith(SKIMAGE)]
    if not 1 <= count <= len(names):
        more = "" if folder is not None else ", and name the folder of Debian's photographs (--photos) to have more"
        raise ValueError(f"{count} pictures were asked for, there are {len(names)}: ask for 1 to {len(names)}{more}")
    return {name: _middle(_read(name, folder)) for name in names[:count]}


def photo_subjects(
    truths: Mapping[str, Tensor], measures: Mapping[str, Measure], *, spoilt: str = "", scale: int = 2
) -> list[Subject]:
    """To be upscaled from 1 / scale of their size, spoilt or not, and compared with what they were."""
    found = []
    for name, truth in truths.items():
        source = SPOILS[spoilt](shrunk(truth, scale))
        found.append(Subject(name, "photograph", source, partial(_judged, measures, truth=truth, source=source)))
    return found


def with_noise(pixels: Tensor) -> Tensor:
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(5))
    return (pixels + NOISE * noise).clamp(0, 1)


def as_jpeg(pixels: Tensor) -> Tensor:
    file = io.BytesIO()
    bytes_ = (pixels[0].movedim(0, -1) * 255).round().byte().numpy()
    Image.fromarray(bytes_).save(file, "JPEG", quality=QUALITY)
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).movedim(-1, 0)[None].float() / 255


SPOILS = {"": lambda pixels: pixels, "noise": with_noise, "jpeg": as_jpeg, "blur": partial(blur, sigma=BLUR)}


def shrunk(pixels: Tensor, scale: int) -> Tensor:
    height, width = pixels.shape[2:]
    return resize(pixels, height=height // scale, width=width // scale)


def _judged(
    measures: Mapping[str, Measure], result: Tensor, biased: Collection[str], *, truth: Tensor, source: Tensor
) -> dict[str, float]:
    asked = {name: measure for name, measure in measures.items() if name not in biased}
    return judged(asked, result, truth=truth, source=source)


def _read(name: str, folder: Path | None) -> Tensor:
    if name.startswith(SKIMAGE):
        return _packaged(name.removeprefix(SKIMAGE))
    assert folder is not None
    path = next(iter(folder.rglob(f"{name}.jpg")), None)
    if path is None:
        raise ValueError(
            f"{folder} has no {name}.jpg: `apt-get download lomiri-wallpapers-16.04`, unpack it there with `dpkg -x`"
        )
    return load_picture(path).pixels


def _packaged(name: str) -> Tensor:
    import skimage.data

    picture = getattr(skimage.data, name)()
    picture = picture[0] if isinstance(picture, tuple) else picture  # of a stereo pair the left one
    colours = picture if picture.ndim == 3 else np.stack([picture] * 3, -1)
    return torch.from_numpy(colours.copy()).permute(2, 0, 1)[None].float() / 255


def _middle(pixels: Tensor) -> Tensor:
    height, width = pixels.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(pixels[..., top : top + side, left : left + side], height=SIDE, width=SIDE)
