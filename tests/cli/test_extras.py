"""What an installation without the extras says."""

import subprocess
import sys

import pytest

from dinotile.demo import SAMPLE


@pytest.mark.parametrize(
    ("library", "arguments"),
    [("typer", ["--help"]), ("rich", ["--help"]), ("diffusers", ["upscale", str(SAMPLE), "-o", "out.png"])],
)
def test_a_library_that_is_missing_is_one_sentence(library, arguments, tmp_path):
    code = f"import sys; sys.modules[{library!r}] = None; from dinotile.cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == f'dinotile: {library} is not installed: pip install "dinotile[cli]"\n'
    assert done.returncode == 2 and done.stdout == "" and not list(tmp_path.iterdir())
