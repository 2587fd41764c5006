"""Rows of pictures far wider than high, whose memory must not grow with the square of their width."""

import pytest
import torch

from dinotile.files.pixels import resize
from dinotile.files.resampling import span
from dinotile.upscaling.rows import Pixels, reduced, resized

WIDTH = 60_000  # px: weights of all its columns at once would take 50 GB


@pytest.fixture(scope="module")
def wide():
    return torch.rand(1, 3, 40, WIDTH, generator=torch.Generator().manual_seed(0))


def test_rows_are_enlarged_as_the_whole_is(wide):
    whole = resize(wide, height=80, width=2 * WIDTH)
    found = resized(Pixels(wide), span(20, 24, side=80, source=40), width=2 * WIDTH).clamp(0, 1)
    assert (found - whole[..., 20:24, :]).abs().max() < 1e-5


def test_the_whole_is_shrunk_as_ever(wide):
    assert (reduced(Pixels(wide), longest=3000) - resize(wide, height=2, width=3000)).abs().max() < 1e-5
