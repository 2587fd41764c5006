"""What the demo models learn from: sample photographs of two Python packages, and pictures of the world.

Nothing is downloaded; the photographs are inside the wheels of scikit-image and scikit-learn.

| picture                             | licence                          | used for                         |
|-------------------------------------|----------------------------------|----------------------------------|
| skimage astronaut, hubble, rocket   | public domain (NASA, ESA, SpaceX) | training                        |
| skimage coffee                      | CC0 (Rachel Michetti)            | training                         |
| skimage camera                      | CC0 (Lav Varshney)               | training                         |
| skimage retina                      | CC0 (Mikael Haggstrom)           | training                         |
| skimage brick, gravel (CC0Textures) | CC0                              | training                         |
| skimage grass (linolafett)          | CC0                              | training                         |
| sklearn china                       | CC BY 2.0 [1]                    | training                         |
| sklearn flower                      | CC BY 2.0 [2]                    | training                         |
| pictures of the world (world.py)    | made by this repository          | training                         |
| skimage chelsea (the cat)           | CC0 (Stefan van der Walt)        | HELD OUT: never trained on;      |
|                                     |                                  | sample.jpg is its upper left     |
|                                     |                                  | 450 x 300 px at 384 x 256        |

The shipped files also saw a few procedural textures of this repository, which are no longer drawn.

[1] danielbuechele, flickr.com/photos/danielbuechele/6061409035  [2] vultilion, flickr.com/photos/vultilion/6056698931
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from . import world

PHOTOS = ("astronaut", "hubble_deep_field", "rocket", "coffee", "camera", "retina", "brick", "gravel", "grass")
WEIGHTS = {"astronaut": 3, "coffee": 3, "rocket": 2, "camera": 2, "china": 4, "flower": 4}


class Pictures:
    """Seeded source of random training crops, held as uint8: photographs, and `worlds` pictures of the world (or none), every
    fourth of them without textures, as an upscaler finds them."""

    def __init__(self, *, seed: int, worlds: int = 200) -> None:
        self.rng = np.random.default_rng(seed)
        photos = _photos()
        self.photos = list(photos.values())
        weights = np.array([WEIGHTS.get(name, 1) for name in photos], dtype=np.float64)
        self.weights = weights / weights.sum()
        drawn = [world.scene(self.rng) for _ in range(worlds)]
        drawn = [one.flat() if index % 4 == 0 else one.true() for index, one in enumerate(drawn)]
        self.worlds = [_tensor((picture * 255).round().astype(np.uint8)) for picture in drawn]

    def crops(self, count: int, *, side: int, zoom: tuple[float, float] = (0.4, 2.5)) -> Tensor:
        """Random crops [count, 3, side, side] in 0..1, by torch's own generator. A zoom below 1 enlarges: such crops are
        soft, as an upscaler's input is."""
        self.rng = np.random.default_rng(torch.randint(2**31, (2,)).tolist())
        return torch.stack([self._crop(side, zoom) for _ in range(count)])

    def _crop(self, side: int, zoom: tuple[float, float]) -> Tensor:
        rng = self.rng
        if self.worlds and rng.random() < 0.25:
            source = self.worlds[rng.integers(len(self.worlds))]
        else:
            source = self.photos[rng.choice(len(self.photos), p=self.weights)]
        scale = min(np.exp(rng.uniform(*np.log(zoom))), min(source.shape[1:]) / side)
        cut = int(side * scale)
        top, left = (rng.integers(length - cut + 1) for length in source.shape[1:])
        crop = source[None, :, top : top + cut, left : left + cut].float() / 255
        crop = interpolate(crop, (side, side), mode="bicubic", antialias=True).clamp(0, 1)[0]
        return self._recolour(crop.flip(2) if rng.random() < 0.5 else crop)

    def _recolour(self, crop: Tensor) -> Tensor:
        rng = self.rng
        gray = bool((crop[0] - crop[2]).abs().max() < 0.02)
        if gray:
            dark, bright = torch.from_numpy(rng.uniform(((0,), (0.4,)), ((0.4,), (1,)), (2, 3))).float()
            crop = dark[:, None, None] + (bright - dark)[:, None, None] * crop
        elif rng.random() < 0.3:
            crop = crop[torch.from_numpy(rng.permutation(3))]
        gain, gamma = rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.25)
        return (gain * crop.clamp(0, 1) ** gamma).clamp(0, 1)


def held_out() -> Tensor:
    """The cat that no model has seen, [1, 3, 288, 448] in 0..1."""
    from skimage.data import chelsea

    return _tensor(chelsea())[None, :, 6:294, 1:449].float() / 255


def soft_copy(pixels: Tensor) -> Tensor:
    """Bicubic down and up again by 2: the input of an upscaler whose true result is `pixels` [B, 3, H, W]."""
    height, width = pixels.shape[-2:]
    small = interpolate(pixels, (height // 2, width // 2), mode="bicubic", antialias=True)
    return interpolate(small.clamp(0, 1), (height, width), mode="bicubic").clamp(0, 1)


def psnr(left: Tensor, right: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0..1."""
    return -10 * torch.log10((left.float().clamp(0, 1) - right.float().clamp(0, 1)).square().mean()).item()


def _photos() -> dict[str, Tensor]:
    """Name -> [3, H, W] uint8."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    photos = {name: _tensor(getattr(skimage.data, name)()) for name in PHOTOS}
    return photos | {name: _tensor(load_sample_image(f"{name}.jpg")) for name in ("china", "flower")}


def _tensor(picture: np.ndarray) -> Tensor:
    picture = np.array(picture if picture.ndim == 3 else np.stack([picture] * 3, -1))
    return torch.from_numpy(picture).permute(2, 0, 1)
