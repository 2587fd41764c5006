"""A photo, and the promise of every refusal: one line, exit code 2, nothing written."""

import os

import pytest

from dinotile.files.pictures import Picture, save_picture

from ..tiny import picture


@pytest.fixture
def photo(tmp_path):
    save_picture(Picture(picture(40, 52)), tmp_path / "photo.png")
    return tmp_path / "photo.png"


def refused(dinotile, words, *arguments, folder):
    before = sorted(os.listdir(folder))
    code, out, err = dinotile("upscale", *arguments)
    assert code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("dinotile: ") and words in err
    assert sorted(os.listdir(folder)) == before
