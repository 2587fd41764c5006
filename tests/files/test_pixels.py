import numpy as np
import torch
from PIL import Image

from benchmarks.counts import Counts
from dinotile.files.pictures import from_image
from dinotile.files.pixels import resize

from ..near import assert_near
from ..tiny import picture


def test_resizing_keeps_precision_and_flat_colours():
    flat = torch.full((1, 3, 5, 7), 0.123456)
    assert torch.allclose(resize(flat, height=11, width=19), torch.full((1, 3, 11, 19), 0.123456), atol=1e-6)
    batch = picture(20, 30, batch=2)
    assert_near(resize(batch, height=40, width=60)[1:], resize(batch[1:], height=40, width=60))


def test_resizing_is_pils_bicubic():
    array = (picture(20, 30)[0].permute(1, 2, 0) * 255).byte().numpy()
    expected = np.asarray(Image.fromarray(array).resize((75, 41), Image.Resampling.BICUBIC))
    result = resize(from_image(Image.fromarray(array)).pixels, height=41, width=75)
    assert (result[0].permute(1, 2, 0) * 255 - torch.from_numpy(expected.astype(np.float32))).abs().max() <= 1.5


def test_resizing_makes_one_picture_and_leaves_its_input_alone():
    pixels = picture(16, 16) * 3 - 1
    copy = pixels.clone()
    with Counts() as counts:
        larger = resize(pixels, height=64, width=64)
    assert counts.peak == larger.nbytes
    assert resize(pixels, height=16, width=16).max() == 1 and torch.equal(pixels, copy)
