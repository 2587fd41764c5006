import json
import os
import signal
from threading import Timer

import numpy as np
import pytest
from PIL import Image

from dinotile.cli.inputs import find_pictures
from dinotile.files import deep
from dinotile.files.pictures import Picture, save_picture

from ..tiny import picture


@pytest.fixture
def folder(tmp_path):
    """Two pictures, two files that are none, and others that are not asked for."""
    place = tmp_path / "in"
    (place / "below").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "below/c.png", ".hidden.png"):
        save_picture(Picture(picture(20, 24)), place / name)
    (place / "notes.txt").write_text("no picture")
    return place


def break_two(folder):
    (folder / "cut.png").write_bytes((folder / "b.png").read_bytes()[:300])
    (folder / "text.webp").write_text("no picture")


def test_folders_and_patterns_name_their_pictures_once_in_order(folder):
    names = [folder / "a.jpg", folder / "b.png"]
    assert find_pictures([str(folder)]) == names
    assert find_pictures([str(folder / "b.png"), f"{folder}/*.[jp]*g", str(folder)]) == names[::-1]
    assert find_pictures([f"{folder}/**/*.png"]) == [folder / "b.png", folder / "below" / "c.png"]
    odd = folder / "a[1].png"
    odd.touch()
    assert find_pictures([str(odd)]) == [odd]
    for wrong, words in ((f"{folder}/*.bmp", "no file matches"), (str(folder / "none"), "")):
        if words:
            with pytest.raises(ValueError, match=words):
                find_pictures([wrong])
        else:
            assert find_pictures([wrong]) == [folder / "none"]  # which is said to be missing when it is read
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        find_pictures([str(folder / "empty")])


def test_all_unreadable_files_are_told_together_before_any_work(dinotile, models, folder, tmp_path):
    break_two(folder)
    code, out, err = dinotile("upscale", folder, "-o", f"{tmp_path}/out/", *models, "--report", tmp_path / "r.json")
    assert code == 2 and out == "" and err.count("\n") == 1
    assert "2 of 4 pictures cannot be used: " in err and "cut.png is not" in err and "text.webp is not" in err
    assert sorted(os.listdir(tmp_path)) == ["in"]


def test_keep_going_does_the_others_and_ends_with_a_table_a_report_and_exit_code_1(dinotile, models, folder, tmp_path):
    break_two(folder)
    Image.new("RGB", (20_000, 1)).save(folder / "wide.png")
    options = [*models, "--keep-going", "--steps", 1, "--max-megapixels", 0.015]
    options += ["--report", tmp_path / "r.json", "--seed", 2**64 - 1]
    code, out, _ = dinotile("upscale", folder, "-o", f"{tmp_path}/out/", *options)
    assert code == 1 and sorted(os.listdir(tmp_path / "out")) == ["a.png", "b.png"]
    assert "3 of 5 pictures failed" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert [done["written"] for done in report["pictures"]] == [
        str(tmp_path / "out" / name) for name in ("a.png", "b.png")
    ]
    assert report["pictures"][0]["settings"]["seed"] == 2**64 - 1
    assert [failed["file"].rsplit("/")[-1] for failed in report["failed"]] == ["cut.png", "text.webp", "wide.png"]
    assert "20000 x 1 px are 0.02 megapixels, 0.015 are allowed: raise --max-megapixels" in report["failed"][2]["error"]
    assert report["versions"] and report["seconds"]["load"] > 0


def test_a_fault_of_the_whole_batch_is_told_once_before_a_model_is_loaded(dinotile, folder, tmp_path):
    for option in (["--cfg", 2], ["--no-dino", "--dino-guidance", 3]):
        code, out, err = dinotile("upscale", folder, "-o", f"{tmp_path}/out/", *option, "--keep-going")
        assert code == 2 and out == "" and err.count("\n") == 1 and os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("keep_going", [False, True])
@pytest.mark.parametrize("failure", [MemoryError, KeyboardInterrupt, KeyError])
def test_whatever_ends_a_batch_what_was_done_is_in_the_report(
    dinotile, models, folder, tmp_path, monkeypatch, failure, keep_going
):
    from dinotile.upscaling import api

    whole, seen = api.upscale_picture, []

    def failing(*given, **more):
        seen.append(given)
        if len(seen) == 2:
            raise failure()
        return whole(*given, **more)

    monkeypatch.setattr(api, "upscale_picture", failing)
    save_picture(Picture(picture(20, 24)), folder / "c.png")
    options = [*models, "--steps", 1, "--report", tmp_path / "r.json", *(["--keep-going"] if keep_going else [])]
    command = ("upscale", folder, "-o", f"{tmp_path}/out/", *options)
    if failure is KeyError:  # a fault of the program
        with pytest.raises(KeyError):
            dinotile(*command)
    else:
        expected = 130 if failure is KeyboardInterrupt else 1 if keep_going else 2
        assert dinotile(*command)[0] == expected
    goes_on = keep_going and failure is MemoryError
    report = json.loads((tmp_path / "r.json").read_text())
    assert len(report["pictures"]) == len(os.listdir(tmp_path / "out")) == (2 if goes_on else 1)
    if failure is MemoryError:
        assert [failed["error"].split(":")[0] for failed in report["failed"]] == ["the device ran out of memory"]
        if not keep_going:
            code, out, _ = dinotile(*command, "--skip-existing")
            assert code == 0 and "1 of 3 pictures are there already" in out
            assert len(json.loads((tmp_path / "r.json").read_text())["pictures"]) == 3


def test_a_report_has_each_picture_once_and_all_that_was_asked_for(dinotile, models, folder, tmp_path):
    options = [*models, "--steps", 1, "--report", tmp_path / "r.json", "--device", "cpu", "--skip-existing"]
    command = ("upscale", folder, "-o", f"{tmp_path}/out/", *options)
    for names in (["a.png", "b.png"], ["b.png", "a.png"]):
        assert dinotile(*command)[0] == 0
        report = json.loads((tmp_path / "r.json").read_text())
        assert [done["written"] for done in report["pictures"]] == [str(tmp_path / "out" / name) for name in names]
        (tmp_path / "out" / "a.png").unlink()
    assert report["options"]["no_dino"] and report["options"]["device"] == "cpu" and "models" not in report


def test_16_bits_grey_and_notes_come_through_the_command(dinotile, models, tmp_path):
    array = np.random.default_rng(0).integers(0, 65536, (16, 16, 3), dtype=np.uint16)
    (tmp_path / "deep.png").write_bytes(deep.png(array, dpi=(300, 300)))
    frames = [Image.new("L", (16, 16), grey) for grey in (50, 90)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    inputs = [tmp_path / "deep.png", tmp_path / "two.gif"]
    code, out, _ = dinotile("upscale", *inputs, "-o", f"{tmp_path}/out/", *models, "--report", tmp_path / "r.json")
    assert code == 0 and "two.gif: of its pages or frames the first was taken" in out
    assert "the first was taken" in json.loads((tmp_path / "r.json").read_text())["pictures"][1]["note"]
    content = (tmp_path / "out" / "deep.png").read_bytes()
    assert content[24] == 16 and round(Image.open(tmp_path / "out" / "deep.png").info["dpi"][0]) == 300
    assert Image.open(tmp_path / "out" / "two.png").mode == "L"


def test_a_request_to_end_is_ctrl_c_and_the_report_says_what_was_done(dinotile, models, folder, tmp_path):
    """In the first picture, which takes a thousand steps."""
    report = tmp_path / "r.json"
    options = ("-o", f"{tmp_path}/out/", *models, "--steps", 1000, "--report", report, "--device", "cpu")
    Timer(2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    code, _, err = dinotile("upscale", folder, "--scale", 16, *options)
    assert code == 130 and err.splitlines()[-1] == "dinotile: interrupted, nothing half-written was left"
    assert json.loads(report.read_text())["pictures"] == [] and not list((tmp_path / "out").glob("*"))
