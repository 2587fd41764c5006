"""What a run refuses, its ``--dry-run`` refuses too, and neither leaves anything."""

import os

import pytest

from .refused import photo as photo
from .refused import refused


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize(
    "words,options",
    [
        ("ends in .bmp: end it in", ("-o", "x.bmp")),
        ("416 x 320 px does not fit", ("-o", "x.jpg", "--scale", 8)),
        ("the folder none of output x.png does not exist", ("-o", "none/x.png")),
        ("the folder none of output r.json does not exist", ("-o", "x.png", "--report", "none/r.json")),
        ("folder photo.png/out cannot be made (photo.png is a file)", ("-o", "photo.png/out/")),
        ("folder /proc/out cannot be made", ("-o", "/proc/out/")),
    ],
)
def test_places_that_take_no_file_are_refused(dinotile, models, photo, tmp_path, monkeypatch, words, options, more):
    from dinotile.files import writing

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(writing.LONGEST_SIDE, ".jpg", 400)
    refused(dinotile, words, photo, *options, *models, *more, folder=tmp_path)


def test_a_folder_that_would_be_made_is_not_made_and_may_take_the_report(dinotile, models, photo, tmp_path):
    report = tmp_path / "new" / "r.json"
    options = ("-o", f"{tmp_path}/new/below/", *models, "--steps", 1, "--report", report)
    code, out, _ = dinotile("upscale", photo, *options, "--dry-run")
    assert code == 0 and "104 x 80 px" in out and os.listdir(tmp_path) == ["photo.png"]
    assert dinotile("upscale", photo, *options)[0] == 0 and report.is_file()
