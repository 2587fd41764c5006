"""A job over many pictures, killed, changed and damaged, and what its manifest makes of it."""

import json
import os
import shutil
import time
from collections import Counter

import pytest

from dinotile.cli.manifest import DONE, RUNNING, Manifest
from dinotile.files.pictures import Picture, save_picture

from ..limits import largest_file
from ..tiny import picture, tiny_flux

LIMIT = 600  # seconds; a machine may be crowded


@pytest.fixture
def job(tmp_path, models):
    """Arguments of a job over three pictures, and its manifest."""
    (tmp_path / "in").mkdir()
    for number, name in enumerate("abc"):
        save_picture(Picture(picture(20 + number, 24)), tmp_path / "in" / f"{name}.png")
    manifest = tmp_path / "out" / "jobs.jsonl"
    return ["upscale", tmp_path / "in", "-o", f"{tmp_path}/out/", *models, "--manifest", manifest], manifest


def lines(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def ended(manifest, status="done"):
    """How often each picture ended so."""
    return Counter(os.path.basename(line["source"]) for line in lines(manifest) if line["status"] == status)


def contents(manifest):
    return {path.name: path.read_bytes() for path in manifest.parent.glob("*.png")}


def test_a_killed_job_goes_on_and_makes_no_finished_picture_again(dinotile, dinotile_process, job, tmp_path):
    arguments, manifest = job
    process = dinotile_process(*arguments)
    end = time.monotonic() + LIMIT
    while not manifest.exists() or b'"done"' not in manifest.read_bytes():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = ended(manifest)
    manifest.write_bytes(manifest.read_bytes() + b'{"dinotile": "0.1.0", "stat')
    code, out, _ = dinotile(*arguments)
    assert code == 0 and f"{len(done)} of 3 pictures are done already" in out and "last line was cut short" in out
    assert ended(manifest) == {"a.png": 1, "b.png": 1, "c.png": 1}
    whole = contents(manifest)
    assert dinotile(*arguments[:3], f"{tmp_path}/other/", *arguments[4:-2])[0] == 0
    assert contents(tmp_path / "other" / "jobs.jsonl") == whole
    code, out, _ = dinotile(*arguments)
    assert code == 0 and out.endswith("3 of 3 pictures are done already\n")


def test_what_has_changed_is_done_again_and_nothing_else(dinotile, job, tmp_path):
    arguments, manifest = job
    shutil.copytree(arguments[arguments.index("--model-path") + 1], tmp_path / "model")
    arguments[arguments.index("--model-path") + 1] = tmp_path / "model"
    assert dinotile(*arguments)[0] == 0
    first = contents(manifest)
    before = (tmp_path / "in" / "b.png").stat()
    save_picture(Picture(1 - picture(21, 24)), tmp_path / "in" / "b.png")
    os.utime(tmp_path / "in" / "b.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # a clock proves nothing
    code, out, _ = dinotile(*arguments)
    assert code == 0 and "2 of 3 pictures are done already, 1 changed since and done again" in out
    second = contents(manifest)
    assert {name for name in first if first[name] != second[name]} == {"b.png"}
    (manifest.parent / "c.png").unlink()
    assert "2 of 3" in dinotile(*arguments)[1] and contents(manifest) == second
    assert "0 of 3 pictures are done already, 3 changed since" in dinotile(*arguments, "--seed", 1)[1]
    tiny_flux(seed=7).save_pretrained(tmp_path / "model" / "transformer")
    assert "0 of 3 pictures are done already, 3 changed since" in dinotile(*arguments, "--seed", 1)[1]
    (tmp_path / "model").rename(tmp_path / "moved")
    arguments[arguments.index("--model-path") + 1] = tmp_path / "moved"
    assert "3 of 3 pictures are done already" in dinotile(*arguments, "--seed", 1, "--device", "cpu")[1]


def test_failures_are_listed_with_reasons_and_tried_again(dinotile, job, tmp_path):
    arguments, manifest = job
    whole = (tmp_path / "in" / "b.png").read_bytes()
    (tmp_path / "in" / "b.png").write_bytes(whole[:100])
    code, out, _ = dinotile(*arguments)
    assert code == 1 and "1 of 3 pictures failed" in out and sorted(contents(manifest)) == ["a.png", "c.png"]
    (failed,) = [line for line in lines(manifest) if line["status"] == "failed"]
    assert failed["source"].endswith("b.png") and "b.png is not" in failed["why"]
    (tmp_path / "in" / "b.png").write_bytes(whole)
    code, out, _ = dinotile(*arguments)
    assert code == 0 and "2 of 3 pictures are done already, 1 failed before" in out
    assert ended(manifest) == {"a.png": 1, "b.png": 1, "c.png": 1}


def test_nothing_that_the_job_did_not_write_is_replaced(dinotile, job, tmp_path):
    arguments, manifest = job
    manifest.parent.mkdir()
    (manifest.parent / "a.png").write_text("mine")
    code, _, err = dinotile(*arguments)
    assert code == 2 and "a.png exists already" in err and os.listdir(manifest.parent) == ["a.png"]
    (manifest.parent / "a.png").unlink()
    assert dinotile(*arguments)[0] == 0
    (manifest.parent / "a.png").write_text("mine")
    code, _, err = dinotile(*arguments)
    assert code == 2 and "a.png exists already" in err and (manifest.parent / "a.png").read_text() == "mine"


@pytest.mark.parametrize("text", ["notes\n", "notes", '{"dinotile": "0.1.0", "status": "begun"}\n', "[]\n", "[" * 9999])
def test_a_file_that_is_no_manifest_is_refused_and_stays(dinotile, job, tmp_path, text):
    arguments, manifest = job
    arguments[-1] = other = tmp_path / "other.txt"
    other.write_text(text)
    code, out, err = dinotile(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and "line 1 of" in err and "choose another name" in err
    assert other.read_text() == text and not manifest.parent.exists()


def test_a_manifest_that_another_run_writes_is_refused(dinotile, job, tmp_path):
    arguments, manifest = job
    manifest.parent.mkdir()
    other = Manifest.read(manifest)
    other.begin()
    code, _, err = dinotile(*arguments)
    assert code == 2 and "is being written by another run" in err and os.listdir(manifest.parent) == ["jobs.jsonl"]
    other.close()
    code, _, err = dinotile(*arguments[:-1], tmp_path / "in" / "a.png")
    assert code == 2 and "is also a picture" in err
    code, _, err = dinotile(*arguments, "--skip-existing")
    assert code == 2 and "exclude each other" in err


def test_a_store_that_is_named_later_makes_other_pictures_where_it_decides_the_mode(dinotile, job, tmp_path):
    arguments, manifest = job
    assert dinotile(*arguments)[0] == 0
    joint = contents(manifest)
    code, out, _ = dinotile(*arguments, "--store", tmp_path / "store")
    assert code == 0 and "0 of 3 pictures are done already, 3 changed since" in out and contents(manifest) != joint


def test_a_disk_that_is_full_leaves_whole_lines_and_ends_in_one_sentence(dinotile, job, tmp_path):
    manifest = Manifest.read(tmp_path / "jobs.jsonl")
    manifest.begin()
    manifest.note(tmp_path / "a.png", tmp_path / "out" / "a.png", DONE, size=1)
    whole = manifest.path.read_bytes()
    with largest_file(len(whole) + 50):
        with pytest.raises(ValueError, match="cannot be written .*: make room, and go on") as said:
            manifest.note(tmp_path / "b.png", tmp_path / "out" / "b.png", RUNNING)
        assert "\n" not in str(said.value) and manifest.path.read_bytes() == whole
        manifest.close()
        with pytest.raises(ValueError, match="cannot be written .*: make room, and go on"):  # before models are loaded
            Manifest.read(manifest.path).begin()
        assert manifest.path.read_bytes() == whole
    arguments, path = job
    path.parent.mkdir()
    path.write_bytes(whole)
    with largest_file(len(whole) + 50):
        code, _, err = dinotile(*arguments)
    assert code == 2 and err.splitlines()[-1].startswith(f"dinotile: manifest {path} cannot be written")
    assert path.read_bytes() == whole
    assert dinotile(*arguments)[0] == 0 and ended(path) == {"a.png": 2, "b.png": 1, "c.png": 1}


@pytest.mark.parametrize("spelling", ["{}/new/jobs.jsonl", "new/jobs.jsonl", "in/../new/jobs.jsonl"])
def test_a_folder_that_is_made_for_results_takes_the_manifest_under_any_name(
    dinotile, job, tmp_path, monkeypatch, spelling
):
    monkeypatch.chdir(tmp_path)
    place = spelling.format(tmp_path)
    arguments = [*job[0][:3], "new/", *job[0][4:-1]]
    assert dinotile(*arguments, place, "--dry-run")[0] == 0 and os.listdir(tmp_path) == ["in"]
    code, _, err = dinotile(*arguments, place.replace("new", "other"))
    assert code == 2 and "other of manifest jobs.jsonl does not exist: create it first" in err
    assert os.listdir(tmp_path) == ["in"]
