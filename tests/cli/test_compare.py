"""What ``--compare`` writes besides the results: it takes the place of nothing that is somebody's."""

import json
import os

import pytest

from dinotile.files.pictures import Picture, save_picture

from ..tiny import picture
from .refused import refused


@pytest.fixture
def beside(tmp_path):
    """Write pictures into the folder, by name; returns the first."""

    def write(*names):
        for name in names:
            save_picture(Picture(picture(20, 24)), tmp_path / name)
        return tmp_path / names[0]

    return write


def test_a_comparison_never_takes_the_place_of_an_input(dinotile, beside, models, tmp_path):
    source = beside("a-compare.jpg")
    before = source.read_bytes()
    options = ("-o", tmp_path / "a.png", *models, "--compare", "--overwrite")
    refused(dinotile, f"output {source} is the input itself", source, *options, folder=tmp_path)
    assert source.read_bytes() == before


@pytest.mark.parametrize("names", [("q-compare.jpg", "q.png"), ("q.png", "q-compare.jpg")])
def test_a_comparison_never_takes_the_place_of_another_result(dinotile, beside, models, tmp_path, names):
    beside("a.png", "b.png")
    lines = [{"source": source, "output": name} for source, name in zip(("a.png", "b.png"), names, strict=True)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "out").mkdir()
    options = ("-o", f"{tmp_path}/out/", *models, "--compare")
    refused(dinotile, "would be written to", tmp_path / "list.jsonl", *options, folder=tmp_path)
    assert not os.listdir(tmp_path / "out")


def test_a_comparison_never_takes_the_place_of_the_manifest(dinotile, beside, models, tmp_path):
    options = ("-o", tmp_path / "a.png", *models, "--compare", "--manifest", tmp_path / "a-compare.jpg")
    refused(dinotile, "is also a picture", beside("in.png"), *options, folder=tmp_path)
