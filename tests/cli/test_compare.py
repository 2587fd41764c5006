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


def test_a_comparison_replaces_no_file_of_the_user_beside_results_that_are_left_to_do(
    dinotile, beside, models, tmp_path
):
    mine = tmp_path / "out-compare.jpg"
    mine.write_text("mine")
    options = ("-o", tmp_path / "out.png", *models, "--compare", "--skip-existing")
    refused_with(
        dinotile, "out-compare.jpg exists already: choose another name, or remove it", beside("a.png"), *options
    )
    assert mine.read_text() == "mine"


def test_a_job_replaces_the_comparisons_that_it_wrote_and_no_others(dinotile, beside, models, tmp_path):
    job = (beside("a.png"), "-o", f"{tmp_path}/out/", *models, "--steps", 1, "--manifest", tmp_path / "jobs.jsonl")
    both = tmp_path / "out" / "a-compare.jpg"
    assert dinotile("upscale", *job)[0] == 0
    both.write_text("mine")
    refused_with(dinotile, "a-compare.jpg exists already", *job, "--compare")
    assert both.read_text() == "mine"
    both.unlink()
    assert dinotile("upscale", *job, "--compare")[0] == 0
    written = both.read_bytes()
    assert dinotile("upscale", *job, "--compare", "--seed", 1)[0] == 0 and both.read_bytes() != written
    cut_short = "".join((tmp_path / "jobs.jsonl").read_text().splitlines(keepends=True)[:-1])
    (tmp_path / "jobs.jsonl").write_text(cut_short)
    assert dinotile("upscale", *job, "--compare", "--seed", 2)[0] == 0
    both.write_text("mine")
    refused_with(dinotile, "a-compare.jpg exists already", *job, "--compare", "--seed", 3)
    assert both.read_text() == "mine"


def refused_with(dinotile, words, *arguments):
    code, _, err = dinotile("upscale", *arguments)
    assert code == 2 and err.count("\n") == 1 and words in err
