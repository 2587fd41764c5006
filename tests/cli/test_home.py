"""A path that begins with ``~`` leads to the home folder also where a shell leaves it as it is, as in ``--output=~/out/``."""

import os

import pytest

from dinotile.cli.app import app
from dinotile.cli.flatdino import flatdino
from dinotile.demo import SAMPLE

from .refused import photo as photo

NOBODY = "~no-such-user/x"
COMMANDS = {
    "upscale to": ("upscale", SAMPLE, f"--output={NOBODY}/"),
    "upscale keeps in": ("upscale", SAMPLE, "-o", "out.png", f"--store={NOBODY}"),
    "upscale reports in": ("upscale", SAMPLE, "-o", "out.png", f"--report={NOBODY}"),
    "upscale notes in": ("upscale", SAMPLE, "-o", "out.png", f"--manifest={NOBODY}"),
    "upscale acts in": ("upscale", SAMPLE, "-o", "out.png", f"--denoise-mask={NOBODY}"),
    "again to": ("again", SAMPLE, f"--output={NOBODY}"),
    "again from": ("again", SAMPLE, "-o", "out.png", f"--source={NOBODY}"),
    "run to": ("run", "w.json", "--image", SAMPLE, f"--output={NOBODY}"),
    "run notes in": ("run", "w.json", "--image", SAMPLE, "-o", "out/", f"--manifest={NOBODY}"),
    "run trusts": ("run", "w.json", "--image", SAMPLE, "-o", "out.png", f"--cacert={NOBODY}"),
    "fetch to": ("fetch", "id", f"--output={NOBODY}"),
    "train": ("train", NOBODY),
    "features to": ("features", ".", "--dino", "x", f"--output={NOBODY}"),
    "fit-redux to": ("fit-redux", ".", "--dino", "x", "--siglip", "x", "--redux", "x", f"--output={NOBODY}"),
    "statistics to": ("flatdino", "compute-stats", "flat", ".", f"--output={NOBODY}"),
    "flatdino goes on": ("flatdino", "train", "fast-32-sb-128", "--dino", "x", f"--maybe-restore={NOBODY}", "."),
    "flatdino to": ("flatdino", "train", "fast-32-sb-128", "--dino", "x", f"--output={NOBODY}", "."),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_folder_of_that_name_is_made(dinotile, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, out, err = dinotile(*command)
    assert (code, out) == (2, "") and f"{NOBODY}" in err and "of a user who is not known here" in err
    assert not os.listdir(tmp_path)


def test_every_command_is_so():
    registered = [command.callback for group in (app, flatdino) for command in group.registered_commands]
    assert len(registered) > 15
    assert [command.__name__ for command in registered if not hasattr(command, "__wrapped__")] == []


def test_results_reports_manifests_and_masks_lie_at_home(dinotile, models, photo, tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir(), here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    photo.rename(home / "photo.png")
    places = ("--output=~/out/", "--report=~/r.json", "--manifest=~/j.jsonl", "--store=~/tiles")
    masks = ("--denoise-mask=~/photo.png",)
    assert dinotile("upscale", "~/photo.png", *places, *masks, *models, "--steps", 1)[0] == 0
    assert not os.listdir(here)
    assert sorted(os.listdir(home)) == ["j.jsonl", "out", "photo.png", "r.json", "tiles"]
    assert os.listdir(home / "out") == ["photo.png"]
