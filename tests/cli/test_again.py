"""A result of ``dinotile upscale`` says how it was made, and ``dinotile again`` makes the same."""

import json
import os
import shutil
import time

import pytest
import torch
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

import dinotile
from dinotile import demo
from dinotile.cli.again import living, tiles_for
from dinotile.cli.app import app
from dinotile.files import writing
from dinotile.files.pictures import load_picture
from dinotile.files.writing import hold
from dinotile.upscaling import api
from dinotile.upscaling.recipe import other_than, recipe_of

from ..tiny import tiny_flux, tiny_vae


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
    for name in ("old", "fresh"):
        (tmp_path / f".dinotile-again-{name}").mkdir()
        (tmp_path / f".dinotile-again-{name}" / "in-use").touch()
    os.utime(tmp_path / ".dinotile-again-old" / "in-use", (0, 0))
    done = run("again", made / f"out.{ending}", "-o", tmp_path / f"again.{ending}")
    assert done.output.splitlines()[-1] == "the same pixels"
    assert {path.name for path in tmp_path.iterdir()} == {".dinotile-again-fresh", f"again.{ending}"}
    assert recipe_of(tmp_path / f"again.{ending}")["settings"] == recipe_of(made / "out.png")["settings"]


def test_what_is_another_version_or_weight_is_told(made, tmp_path):
    recipe = recipe_of(made / "out.png")
    recipe["versions"]["torch"], recipe["weights"]["adapter"]["fingerprint"] = "0.1", "0" * 16
    rewritten(made / "out.png", tmp_path / "old.png", recipe)
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


WHOLE = {"source": {"file": "a.png"}, "options": {}, "settings": {}, "weights": {}, "versions": {}, "dinotile": "1"}
WRONG = [{"source": {"file": ""}}, {"options": {"variant": []}}, {"dinotile": None}, {"settings": 1}]
WRONG += [{"redone": wrong} for wrong in (0, False, "1", {}, [0], [True])]
WRONG += [{"out_of_memory": wrong} for wrong in (5, None, ["x"], {}, [{"stage": "sample"}])]


@pytest.mark.parametrize("text", ["{", "[]", "{}", "[" * 5000, *(json.dumps({**WHOLE, **wrong}) for wrong in WRONG)])
def test_a_damaged_recipe_is_one_sentence(made, tmp_path, text):
    info = PngInfo()
    info.add_text("dinotile", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "bad.png", pnginfo=info)
    assert "has a damaged recipe" in refused("again", tmp_path / "bad.png", "-o", tmp_path / "new.png")


def test_a_tile_that_the_plan_has_not_is_refused_before_any_work(made, tmp_path):
    recipe = recipe_of(made / "out.png")
    recipe["redone"], recipe["settings"]["mode"] = [1, 99], "sequential"
    rewritten(made / "out.png", tmp_path / "many.png", recipe)
    said = refused("again", tmp_path / "many.png", "-o", tmp_path / "new.png", "--source", made / "photo.png")
    assert said.startswith("tile 99 is said to be done again, and there are ") and len(os.listdir(tmp_path)) == 1


def test_only_what_a_recipe_says_is_compared_and_weights_of_one_type_only(made):
    recipe, early, other = (recipe_of(made / "out.png") for _ in range(3))
    del early["weights"]["flux"], early["weights"]["text"]
    assert other_than(early, recipe) == [] and other_than(recipe, early)[0].endswith("here it is none")
    other["versions"]["computed on"] = "cuda, bfloat16"
    for name in ("flux", "text", "adapter"):
        other["weights"][name] = {"fingerprint": "0" * 16}
    told = [line.split(" was ")[0] for line in other_than(other, recipe)]
    assert told == ["computed on", "adapter"]


def test_a_long_prompt_is_no_path(made, tmp_path):
    recipe = recipe_of(made / "out.png")
    recipe["options"]["prompt"] = "~user " + "cat " * 200
    rewritten(made / "out.png", tmp_path / "long.png", recipe)
    said = refused("again", tmp_path / "long.png", "-o", tmp_path / "new.png", "--source", made / "photo.png")
    assert "prompt" in said and "no path" not in said  # the demo has no text encoders


def test_no_recipe_leaves_it_out_and_a_result_of_a_result_has_its_own(made, tmp_path):
    options = ("--steps", 1, "--tile", 64, "--overlap", 16)
    assert run("upscale", made / "out.png", "-o", tmp_path / "none.png", "--no-recipe", *options).exit_code == 0
    assert "does not say how it was made" in refused("again", tmp_path / "none.png", "-o", tmp_path / "b.png")
    assert run("upscale", made / "out.png", "-o", tmp_path / "own.png", *options).exit_code == 0
    assert recipe_of(tmp_path / "own.png")["source"]["file"] == "out.png"
    drawn = dinotile.upscale(made / "out.jpg", steps=1, denoise=0.0)
    drawn.save(tmp_path / "api.jpg", exif=drawn.info.get("exif", b""))
    assert "does not say how it was made" in refused("again", tmp_path / "api.jpg", "-o", tmp_path / "b.png")


def test_a_source_that_goes_away_meanwhile_costs_no_result(made, tmp_path, monkeypatch):
    source = tmp_path / "photo.png"
    source.write_bytes((made / "photo.png").read_bytes())
    work = api.upscale_picture

    def gone(*args, **options):
        source.unlink()
        return work(*args, **options)

    monkeypatch.setattr(api, "upscale_picture", gone)
    assert run("upscale", source, "-o", tmp_path / "out.png", "--steps", 1).exit_code == 0
    assert recipe_of(tmp_path / "out.png")["source"] == recipe_of(made / "out.png")["source"]


def test_dino_without_an_adapter_is_in_the_recipe(made, tmp_path):
    options = ("--steps", 1, "--retry", 0.5, "--dino-strength", 0)
    assert run("upscale", made / "photo.png", "-o", tmp_path / "out.png", *options).exit_code == 0
    assert recipe_of(tmp_path / "out.png")["weights"]["dino"]["model"] == "dinov2-demo"


@pytest.mark.parametrize("comment,kept", [(b"ASCII\0\0\0" + b" " * 20, True), (b"ASCII\0\0\0a holiday", False)])
def test_an_empty_comment_of_a_camera_makes_room_and_a_written_one_stays(made, tmp_path, comment, kept):
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: comment}
    with Image.open(made / "photo.png") as image:
        image.save(tmp_path / "photo.jpg", exif=exif)
    done = run("upscale", tmp_path / "photo.jpg", "-o", tmp_path / "out.jpg", "--steps", 1)
    assert ("does not hold the picture's recipe" in done.output) is not kept
    with Image.open(tmp_path / "out.jpg") as image:
        assert (image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] == comment) is not kept


def rewritten(source, place, recipe):
    """The same pixels with another recipe."""
    info = PngInfo()
    info.add_text("dinotile", json.dumps(recipe))
    with Image.open(source) as image:
        image.save(place, pnginfo=info)


SMALL = ("--steps", 1, "--tile", 64, "--overlap", 16, "--no-dino")  # 2 x 2 tiles


def test_tiles_that_were_done_again_are_so_in_the_recipe_in_their_order(made, tmp_path):
    command = ("upscale", made / "photo.png", *SMALL, "--store", tmp_path / "tiles", "-o")
    results = []
    for name, more in (("a", ()), ("b", ("--redo", "4,1")), ("c", ("--redo", "1")), ("d", ())):
        assert run(*command, tmp_path / f"{name}.png", *more).exit_code == 0
        results.append(load_picture(tmp_path / f"{name}.png").pixels)
    said = [recipe_of(tmp_path / f"{name}.png").get("redone") for name in "abcd"]
    assert said == [None, [1, 4], [1, 4, 1], [1, 4, 1]] and "redone" not in recipe_of(tmp_path / "a.png")
    assert torch.equal(results[2], results[3]) and not torch.equal(results[1], results[2])
    for name in "ac":
        done = run(
            "again", tmp_path / f"{name}.png", "-o", tmp_path / "new.png", "--source", made / "photo.png", "--overwrite"
        )
        assert done.output.splitlines()[-1] == "the same pixels"
    assert recipe_of(tmp_path / "new.png")["redone"] == [1, 4, 1]  # so that a result's result is made again too
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png", "d.png", "new.png", "tiles"]
    next((tmp_path / "tiles").glob("*/2.tile")).write_bytes(b"damaged")  # in sight of tile 1, which is another one now
    assert run(*command, tmp_path / "e.png").exit_code == 0 and recipe_of(tmp_path / "e.png")["redone"] is None
    said = refused("again", tmp_path / "e.png", "-o", tmp_path / "f.png", "--source", made / "photo.png")
    assert "it cannot be made again, keep the file" in said and not (tmp_path / "f.png").exists()


def test_what_a_killed_one_left_beside_the_result_goes_with_the_next_and_a_living_ones_stays(
    made, dinotile_process, tmp_path
):
    command = (
        "upscale",
        made / "photo.png",
        *SMALL,
        "--store",
        tmp_path / "tiles",
        "--overwrite",
        "-o",
        tmp_path / "a.png",
    )
    for more in ((), ("--redo", "1")):
        assert run(*command, *more).exit_code == 0
    place = tmp_path / "new"
    place.mkdir()
    arguments = ("again", tmp_path / "a.png", "--source", made / "photo.png", "-o", place / "a.png")
    process, end = dinotile_process(*arguments), time.monotonic() + 600
    while not (left := [*place.glob(".dinotile-again-*/in-use")]):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()
    (place / "a.png").unlink(missing_ok=True)
    (living := place / ".dinotile-again-living").mkdir()
    with (living / "in-use").open("w") as lock:
        assert len(left) == 1 and left[0].exists() and hold(lock)
        for each in (*left, living / "in-use"):
            os.utime(each, (0, 0))
        assert run(*arguments).output.splitlines()[-1] == "the same pixels"
    assert {path.name for path in place.iterdir()} - {"a.png"} == {living.name}


def test_where_the_system_has_no_locks_a_run_that_tells_how_far_it_is_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "fcntl", None)
    told = []

    def tell(stage, done, total, note=""):
        told.append((stage, done, total, note))

    with tiles_for(tmp_path / "a.png", [0]) as store:
        (lock,) = tmp_path.glob(".dinotile-again-*/in-use")
        os.utime(lock, (0, 0))
        assert writing.abandoned(lock)
        living(store, tell)("sample", 1, 4, "tile 2 of 4")
        assert not writing.abandoned(lock) and told == [("sample", 1, 4, "tile 2 of 4")]


def test_a_mask_that_is_another_one_is_refused_before_any_work(made, tmp_path):
    mask = tmp_path / "mask.png"
    Image.new("L", (64, 48), 200).save(mask)
    assert run("upscale", made / "photo.png", *SMALL, "--denoise-mask", mask, "-o", tmp_path / "out.png").exit_code == 0
    Image.new("L", (64, 48), 90).save(mask)
    said = refused("again", tmp_path / "out.png", "-o", tmp_path / "new.png", "--source", made / "photo.png")
    assert said == f"denoise mask {mask} is another picture than it was: put that in its place"
    assert not (tmp_path / "new.png").exists()


def test_another_flux_or_vae_under_the_same_name_and_a_memory_that_ended_are_told(made, models, tmp_path):
    folder = shutil.copytree(models[1], tmp_path / "model")
    command = ("upscale", made / "photo.png", "-o", tmp_path / "out.png", "--model-path", folder, *models[2:])
    assert run(*command).exit_code == 0
    recipe = recipe_of(tmp_path / "out.png")
    recipe["out_of_memory"] = 2 * [{"stage": "decode", "goes_on_with": "lower strips"}]
    rewritten(tmp_path / "out.png", tmp_path / "out.png", recipe)
    tiny_flux(seed=7).save_pretrained(folder / "transformer")
    tiny_vae(seed=7).save_pretrained(folder / "vae")
    done = run("again", tmp_path / "out.png", "-o", tmp_path / "new.png", "--source", made / "photo.png")
    lines = done.output.splitlines()[-4:]
    assert [line.split(" was ")[0] for line in lines[:2]] == ["flux", "vae"]
    assert lines[2] == "memory ended, and it went on with lower strips" and lines[3].startswith("pixels differ")
    recipe["out_of_memory"] += [{"stage": "sample", "goes_on_with": "tiles of 32 x 32 px"}]
    rewritten(tmp_path / "out.png", tmp_path / "small.png", recipe)
    said = refused("again", tmp_path / "small.png", "-o", tmp_path / "other.png", "--source", made / "photo.png")
    assert "was made, which went on with tiles of 32 x 32 px: it cannot be made again, keep the file" in said
    assert not (tmp_path / "other.png").exists()


def test_a_larger_limit_counts_for_the_new_result_too(made, tmp_path, monkeypatch):
    monkeypatch.setitem(recipe_of.__kwdefaults__, "max_megapixels", 0.001)  # as if the results were above the usual one
    done = run("again", made / "out.png", "-o", tmp_path / "new.png", "--max-megapixels", 1)
    assert done.exit_code == 0 and done.output.splitlines()[-1] == "the same pixels"
