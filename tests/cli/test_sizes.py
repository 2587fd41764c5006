"""Results of a size that was asked for, and beside what plain enlargement gives."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dinotile import demo
from dinotile.cli.app import app
from dinotile.tiling.wanted import WantedSize


def run(*words):
    return CliRunner().invoke(app, ["upscale", *(str(word) for word in words), "--steps", "1"])


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("sizes") / "photo.png"
    with Image.open(demo.SAMPLE) as image:
        image.crop((100, 60, 164, 108)).save(path)
    return path


@pytest.mark.parametrize(
    "asked,size",
    [
        (("--width", 101), (101, 76)),
        (("--height", 101), (135, 101)),
        (("--width", 100, "--height", 100), (100, 75)),
        (("--longest", 99), (99, 74)),
        (("--megapixels", 0.01), (115, 87)),
    ],
)
def test_the_result_has_the_size_that_was_asked_for(photo, tmp_path, asked, size):
    done = run(photo, "-o", tmp_path / "out.png", *asked)
    assert done.exit_code == 0, done.exception
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == size
    ahead = run(photo, "-o", tmp_path / "other.png", "--dry-run", *asked)
    assert f"{size[0]} x {size[1]} px" in ahead.output


@pytest.mark.parametrize(
    "asked,said",
    [
        (("--width", 0), "width 0 must be above 0"),
        (("--width", 100, "--longest", 100), "width and longest are different sizes"),
        (("--megapixels", "nan"), "megapixels nan must be above 0"),
        (("--width", 100, "--scale", 3), "--scale and a size"),
        (("--longest", 9000), "scale 140.625 must be from 0.1 to 16"),
    ],
)
def test_sizes_that_cannot_be_had_are_refused_before_any_work(photo, tmp_path, asked, said):
    done = run(photo, "-o", tmp_path / "out.png", *asked)
    assert done.exit_code != 0 and said in str(done.exception) and not list(tmp_path.iterdir())


def test_every_size_is_reached_to_the_pixel():
    for height, width in ((7, 13), (480, 641), (3001, 2000)):
        for side in (5, 97, 1000, 4999):
            assert round(width * WantedSize(width=side).scale(height, width)) == side
            assert round(height * WantedSize(height=side).scale(height, width)) == side


@pytest.mark.parametrize("turned,size", [(False, (128, 2 * 96 + 4)), (True, (2 * 96 + 4, 128))])
def test_the_comparison_holds_plain_enlargement_and_the_result(photo, tmp_path, turned, size):
    source = tmp_path / "in.png"
    with Image.open(photo) as image:
        (image.transpose(Image.Transpose.ROTATE_90) if turned else image).save(source)
    assert run(source, "-o", tmp_path / "out.png", "--compare").exit_code == 0
    with Image.open(tmp_path / "out-compare.jpg") as both, Image.open(tmp_path / "out.png") as result:
        assert both.size == size
        half = both.crop((size[0] - result.width, size[1] - result.height, *size))
        assert np.abs(np.asarray(half, float) - np.asarray(result, float)).mean() < 3
        first = both.crop((0, 0, *result.size))
        with Image.open(source) as small:
            plain = small.resize(result.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(first, float) - np.asarray(plain, float)).mean() < 4
    again = run(source, "-o", tmp_path / "out.png", "--compare", "--skip-existing")
    assert again.exit_code == 0 and "1 of 1 pictures are there already" in again.output
    (tmp_path / "out.png").unlink()
    assert "out-compare.jpg exists already" in str(run(source, "-o", tmp_path / "out.png", "--compare").exception)
