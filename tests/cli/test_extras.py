"""What an installation without the extras says."""

import subprocess
import sys

import pytest

from dinotile.cli.__main__ import main
from dinotile.demo import SAMPLE


def sentence(library):
    return f'dinotile: {library} is not installed: pip install "dinotile[cli]"\n'


@pytest.mark.parametrize("library", ["typer", "rich"])
def test_a_command_line_that_is_not_installed_is_one_sentence(library):
    code = f"import sys; sys.modules[{library!r}] = None; from dinotile.cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", sentence(library))


def test_an_upscaler_without_diffusers_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setattr(sys, "argv", ["dinotile", "upscale", str(SAMPLE), "-o", str(tmp_path / "out.png")])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and capsys.readouterr() == ("", sentence("diffusers"))
    assert not list(tmp_path.iterdir())
