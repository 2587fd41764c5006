import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.counts import Counts
from dinotile.files.pictures import from_image
from dinotile.files.pixels import check_pixels, resize

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


@pytest.mark.parametrize("antialias", [False, True])
def test_pixels_may_pass_their_range_by_what_sharp_edges_do_in_an_enlargement_and_not_by_more(antialias):
    checks = (torch.arange(16)[:, None] + torch.arange(16)) % 2
    edges = F.interpolate(checks.float().expand(1, 3, 16, 16), scale_factor=4, mode="bicubic", antialias=antialias)
    assert edges.min() < -0.02
    check_pixels(edges)
    for pixels in (picture(8, 8) * 2 - 1, torch.cat([edges * 2 - 1, edges])):
        with pytest.raises(ValueError, match=r"needed is 0..1: .* take \(pixels \+ 1\) / 2 of what lies in -1..1"):
            check_pixels(pixels)


def test_resizing_makes_one_picture_and_leaves_its_input_alone():
    pixels = picture(16, 16) * 3 - 1
    copy = pixels.clone()
    with Counts() as counts:
        larger = resize(pixels, height=64, width=64)
    assert counts.peak == larger.nbytes
    assert resize(pixels, height=16, width=16).max() == 1 and torch.equal(pixels, copy)
