import functools
import os
import subprocess
import sys

import pytest
import typer
from safetensors.torch import save_file

from dinotile.cli import app as cli

from .threads import one_thread as one_thread
from .tiny import tiny_flux, tiny_vae

BUILT = functools.cache(typer.main.get_command)  # from the functions' signatures: a third of a small run's time


@pytest.fixture(scope="session")
def flux():
    return tiny_flux()


@pytest.fixture(scope="session")
def vae():
    return tiny_vae()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Command line options for tiny models on disk: a diffusers folder with transformer/ and vae/."""
    folder = tmp_path_factory.mktemp("models")
    tiny_flux().save_pretrained(folder / "transformer")
    tiny_vae().save_pretrained(folder / "vae")
    return ["--model-path", str(folder), "--no-dino", "--tile", "64", "--overlap", "16", "--steps", "2"]


@pytest.fixture
def dinotile(monkeypatch, capsys):
    """Run the command in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dinotile", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(typer.main, "get_command", BUILT)
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def dinotile_process():
    """Run the command as a process of its own."""

    def start(*arguments, **options):
        command = [sys.executable, "-c", "from dinotile.cli.app import main; main()", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env={**os.environ, "COLUMNS": "200"}, **pipes, **options)

    return start


@pytest.fixture
def weights_file(tmp_path):
    def write(weights, name="model.safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, tmp_path / name)
        return tmp_path / name

    return write
