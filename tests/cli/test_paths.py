"""Names that are too long, links that lead to themselves and closed folders in the place of a path: one sentence."""

import pytest

from dinotile.cli.inputs import find_pictures
from dinotile.cli.outputs import check_inputs_stay
from dinotile.cli.sentences import for_the_user
from dinotile.demo import SAMPLE
from dinotile.files.writing import check_writable

from ..limits import closed

LONG = "x" * 300
COMMANDS = {
    "a picture": ("upscale", LONG, "-o", "out.png"),
    "an output": ("upscale", SAMPLE, "-o", f"{LONG}.png"),
    "a report": ("upscale", SAMPLE, "-o", "out.png", "--report", LONG),
    "an adapter": ("upscale", SAMPLE, "-o", "out.png", "--adapter", LONG),
    "a DINO": ("upscale", SAMPLE, "-o", "out.png", "--dino", LONG),
    "a FLUX": ("upscale", SAMPLE, "-o", "out.png", "--model-path", LONG),
    "a configuration": ("train", LONG),
    "data": ("features", LONG, "--check"),
    "a workflow": ("run", LONG, "--image", SAMPLE, "-o", "out.png"),
    "nobody's picture": ("upscale", "~no-such-user/x.png", "-o", "out.png"),
    "nobody's DINO": ("upscale", SAMPLE, "-o", "out.png", "--dino", "~no-such-user/x"),
    "nobody's adapter": ("upscale", SAMPLE, "-o", "out.png", "--adapter", "~no-such-user/x"),
    "nobody's data": ("features", "~no-such-user/x", "--check"),
    "a looping picture": ("upscale", "loop.png", "-o", "out.png"),
    "a looping output": ("upscale", SAMPLE, "-o", "loop.png"),
    "a looping adapter": ("upscale", SAMPLE, "-o", "out.png", "--adapter", "loop.png"),
    "a looping DINO": ("upscale", SAMPLE, "-o", "out.png", "--dino", "loop.png"),
    "a looping configuration": ("train", "loop.png"),
    "looping data": ("features", "loop.png", "--check"),
    "a looping workflow": ("run", "loop.png", "--image", SAMPLE, "-o", "out.png"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_path_that_is_none_is_one_sentence(command, dinotile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    code, _, err = dinotile(*command)
    assert code == 2 and err.startswith("dinotile: ") and "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["loop.png"]


LOOKS = {
    "inputs": lambda path: find_pictures([str(path)]),
    "outputs": lambda path: check_inputs_stay([path], []),
    "places": check_writable,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_path_that_may_not_be_looked_at_is_one_sentence(look, tmp_path):
    with closed(tmp_path), pytest.raises(PermissionError) as error:
        look(tmp_path / "a.png")
    said = for_the_user(error.value)
    assert said == f"{tmp_path / 'a.png'} may not be read (Permission denied): change its permissions or take another"
