"""What ``--store`` and ``--redo`` mean to a process that works in another folder, and to a result in their place."""

from pathlib import Path

import pytest

from dinotile.cli.kept import Store
from dinotile.files.pictures import Picture, save_picture

from ..tiny import picture
from .refused import photo as photo
from .refused import refused


@pytest.mark.parametrize("redo,other", [("mask.png", "{}/mask.png"), ("3,4", "3,4"), ("10x10+0+0", "10x10+0+0")])
def test_places_are_the_same_from_everywhere_and_numbers_stay(tmp_path, monkeypatch, redo, other):
    (tmp_path / "mask.png").write_bytes(b"any")
    monkeypatch.chdir(tmp_path)
    store = Store(Path("tiles"), redo=redo).absolute
    assert (store.folder, store.redo) == (tmp_path / "tiles", other.format(tmp_path))
    assert Store(redo=redo).absolute.folder is None


def test_a_painted_picture_is_an_input_that_no_result_replaces(dinotile, models, photo, tmp_path):
    mask = tmp_path / "mask.png"
    mask.write_bytes(photo.read_bytes())
    options = ("--mode", "sequential", "--store", tmp_path / "tiles", "--redo", mask, "--overwrite", *models)
    for more in (("-o", mask), ("-o", tmp_path / "out.png", "--report", mask)):
        refused(dinotile, f"output {mask} is the input itself", photo, *more, *options, folder=tmp_path)


def test_many_numbers_are_no_picture_and_a_folder_of_that_name_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3").mkdir()
    assert Store(redo=",".join(map(str, range(1, 99)))).painted is Store(redo="3").painted is None


def test_a_painted_picture_is_within_the_limit_of_pictures_that_are_read(dinotile, models, photo, tmp_path):
    save_picture(Picture(picture(80, 104)), tmp_path / "mask.png")
    options = ("--store", tmp_path / "tiles", "--redo", tmp_path / "mask.png", "--max-megapixels", 0.003, *models)
    words = "0.003 are allowed: raise --max-megapixels"
    refused(dinotile, words, photo, "-o", tmp_path / "out.png", *options, folder=tmp_path)
