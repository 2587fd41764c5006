"""A result of ``dinotile upscale`` says how it was made, and ``dinotile again`` makes the same."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from dinotile import demo
from dinotile.cli.app import app
from dinotile.upscaling.recipe import recipe_of


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words):
    done = run(*words)
    assert done.exit_code != 0
    return str(done.exception)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with photo.png and a result of it in two formats."""
    folder = tmp_path_factory.mktemp("made")
    with Image.open(demo.SAMPLE) as image:
        image.crop((100, 60, 164, 108)).save(folder / "photo.png")
    for ending in ("png", "jpg"):
        options = ("--steps", 1, "--seed", 3, "--denoise", 0.4, "--dino-strength", 0.5)
        assert run("upscale", folder / "photo.png", "-o", folder / f"out.{ending}", *options).exit_code == 0
    return folder


def test_a_result_says_what_was_asked_for_and_what_made_it(made):
    recipe = recipe_of(made / "out.png")
    assert recipe == recipe_of(made / "out.jpg")
    assert recipe["settings"]["seed"] == 3 and recipe["settings"]["overlap"] == 32
    assert recipe["source"]["file"] == "photo.png" and str(made) not in json.dumps(recipe)
    assert {"torch", "diffusers"} < recipe["versions"].keys()
    assert len(recipe["weights"]["adapter"]["fingerprint"]) == len(recipe["weights"]["dino"]["fingerprint"]) == 16


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_it_is_made_again_pixel_by_pixel(made, ending, tmp_path):
    done = run("again", made / f"out.{ending}", "-o", tmp_path / f"again.{ending}")
    assert done.output.splitlines()[-1] == "the same pixels"
    assert recipe_of(tmp_path / f"again.{ending}")["settings"] == recipe_of(made / "out.png")["settings"]


def test_what_is_another_version_or_weight_is_told(made, tmp_path):
    recipe = recipe_of(made / "out.png")
    recipe["versions"]["torch"], recipe["weights"]["adapter"]["fingerprint"] = "0.1", "0" * 16
    with Image.open(made / "out.png") as image:
        info = PngInfo()
        info.add_text("dinotile", json.dumps(recipe))
        image.save(tmp_path / "old.png", pnginfo=info)
    done = run("again", tmp_path / "old.png", "-o", tmp_path / "new.png", "--source", made / "photo.png")
    assert "torch was 0.1, here it is" in done.output and 'adapter was {"fingerprint": "0000' in done.output


def test_a_source_that_is_gone_or_another_is_refused_before_any_work(made, tmp_path):
    (tmp_path / "out.png").write_bytes((made / "out.png").read_bytes())
    assert "the source photo.png is not beside" in refused("again", tmp_path / "out.png", "-o", tmp_path / "new.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    assert "is another picture than the one" in refused("again", tmp_path / "out.png", "-o", tmp_path / "new.png")
    assert "does not say how it was made" in refused("again", made / "photo.png", "-o", tmp_path / "new.png")
    assert "exists already" in refused("again", made / "out.png", "-o", made / "out.jpg")
    assert "is the input itself" in refused("again", made / "out.png", "-o", made / "out.png", "--overwrite")
    assert not (tmp_path / "new.png").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"options": {}, "settings": 1, "source": {}}', "[" * 5000])
def test_a_damaged_recipe_is_one_sentence(made, tmp_path, text):
    info = PngInfo()
    info.add_text("dinotile", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "bad.png", pnginfo=info)
    assert "has a damaged recipe" in refused("again", tmp_path / "bad.png", "-o", tmp_path / "new.png")
