"""Every command explains itself, and what it is not made for is one sentence."""

import pytest

from dinotile.cli.app import app
from dinotile.demo import SAMPLE

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_shown(command, dinotile):
    code, out, err = dinotile(command, "--help")
    assert code == 0 and f"dinotile {command}" in out and err == ""


@pytest.mark.parametrize("device", ["meta", "xla", "vulkan", "cpu0"])
def test_devices_that_nobody_tried_are_refused(device, dinotile, tmp_path):
    code, _, err = dinotile("upscale", SAMPLE, "-o", tmp_path / "out.png", "--device", device)
    assert code == 2 and f"device '{device}' cannot be used" in err and err.count("\n") == 1 and len(err) < 400
    assert not list(tmp_path.iterdir())


def test_a_side_beyond_all_bounds_is_refused(dinotile, tmp_path):
    code, _, err = dinotile("features", tmp_path, "--dino", "none", "--side", 10**9)
    assert code == 2 and "side 1000000000 must be a whole number from 0 to 4096" in err
