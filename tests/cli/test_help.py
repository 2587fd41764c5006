"""Every command explains itself, and what it is not made for is one sentence."""

from dataclasses import fields
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

from dinotile.cli.app import app
from dinotile.cli.flatdino import flatdino
from dinotile.cli.upscale import upscale
from dinotile.demo import SAMPLE
from dinotile.upscaling.limits import LIMITS
from dinotile.upscaling.settings import UpscaleSettings

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_shown(command, dinotile):
    code, out, err = dinotile(command, "--help")
    assert code == 0 and f"dinotile {command}" in out and err == ""


@pytest.mark.parametrize(
    "command", [command.name or command.callback.__name__ for command in flatdino.registered_commands]
)
def test_help_is_shown_of_flatdino_too(command, dinotile):
    code, out, err = dinotile("flatdino", command, "--help")
    assert code == 0 and f"dinotile flatdino {command}" in out and err == ""


def test_the_help_tells_the_range_of_every_number_and_the_settings_keep_it(dinotile):
    hints = get_type_hints(upscale, include_extras=True)
    options = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Annotated}
    numbers = {name for name, (kind, _) in options.items() if {int, float} & {kind, *get_args(kind)}}
    settings = {field.name for field in fields(UpscaleSettings) if field.type in ("int", "float")}
    assert settings == set(LIMITS) and numbers - settings == {
        "max_megapixels",
        "width",
        "height",
        "longest",
        "megapixels",
        "workers",
        "store_size",
    }
    for name in numbers & settings:
        limit = LIMITS[name]
        assert options[name][1].help.endswith(f" Range: {limit}."), name
        for value in (limit.least, limit.most):
            limit.check(name, value)
        for value in (limit.least - 1, limit.most * 2 + 1, float("nan")):
            with pytest.raises(ValueError, match=f"{name.replace('_', ' ')} .* must be from"):
                limit.check(name, value)
    shown = " ".join(dinotile("upscale", "--help")[1].replace("\u2502", " ").split())
    assert "usually 0.2 to 0.5. Range: 0 to 1." in shown and "Seed of the noise. Range: 0 to 2^64 - 1." in shown


@pytest.mark.parametrize("device", ["meta", "xla", "vulkan", "cpu0"])
def test_devices_that_nobody_tried_are_refused(device, dinotile, tmp_path):
    code, _, err = dinotile("upscale", SAMPLE, "-o", tmp_path / "out.png", "--device", device)
    assert code == 2 and f"device '{device}' cannot be used" in err and err.count("\n") == 1 and len(err) < 400
    assert not list(tmp_path.iterdir())


def test_a_side_beyond_all_bounds_is_refused(dinotile, tmp_path):
    code, _, err = dinotile("features", tmp_path, "--dino", "none", "--side", 10**9)
    assert code == 2 and "side 1000000000 must be a whole number from 0 to 4096" in err


@pytest.mark.parametrize(
    "arguments,said",
    [
        (("upscale", "", "-o", "out.png"), "an input is empty text"),
        (("upscale", SAMPLE, "-o", ""), "the output is empty text"),
        (
            ("upscale", SAMPLE, "-o", "out.png", "--max-megapixels", "nan"),
            "dinotile: max megapixels nan must be above 0",
        ),
        (("run", "/dev/zero", "--image", SAMPLE, "-o", "out.png"), "workflow /dev/zero is no file of at most 64 MiB"),
        (("run", "deep.json", "--image", SAMPLE, "-o", "out.png", "--server", "127.0.0.1:1"), "cannot be reached"),
        (("upscale", SAMPLE, "-o", "cut.png", "--skip-existing"), "cut.png is there and no whole picture"),
    ],
)
def test_what_can_only_be_a_mistake_is_one_sentence(arguments, said, dinotile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nested = "[" * 900 + "]" * 900
    (tmp_path / "deep.json").write_text(f'{{"1": {{"class_type": "LoadImage", "inputs": {{"image": {nested}}}}}}}')
    (tmp_path / "cut.png").write_bytes(b"\x89PNG")
    before = sorted(tmp_path.iterdir())
    code, _, err = dinotile(*arguments)
    assert code == 2 and said in err and err.count("\n") == 1 and sorted(tmp_path.iterdir()) == before
