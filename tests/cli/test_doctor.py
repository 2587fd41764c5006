"""``dinotile doctor`` finds what is here, and names what is not with what mends it."""

import re

import huggingface_hub.constants
import pytest
from typer.testing import CliRunner

from dinotile import demo
from dinotile.cli.app import app
from dinotile.cli.doctor import EXTRAS, FLUX, PACK
from dinotile.hosts.diffusers.sources import REPOSITORIES


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Runs it beside an own ComfyUI and an own folder of the hub; exit code and lines."""
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "ComfyUI"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def run():
        done = CliRunner().invoke(app, ["doctor"])
        return done.exit_code, done.output.splitlines()

    return run


def line(lines, words):
    (found,) = [one for one in lines if words in one]
    return found


def test_what_is_missing_is_named_with_what_mends_it(told, tmp_path):
    code, lines = told()
    assert code == 0 and "set COMFYUI_PATH" in line(lines, f"none at {tmp_path / 'ComfyUI'}")
    assert "hf download facebook/dinov2" in line(lines, "a DINO")
    assert "hf download black-forest-labs/FLUX.1-dev" in line(lines, "FLUX.1-dev")


def test_what_is_here_is_found(told, tmp_path):
    for name in ("black-forest-labs/FLUX.1-dev", "facebook/dinov2-small"):
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / "1"
        place.mkdir(parents=True)
        (place / "model.safetensors").touch()
    host = tmp_path / "ComfyUI"
    (host / "custom_nodes").mkdir(parents=True)
    (host / "main.py").touch()
    (host / "comfyui_version.py").write_text('__version__ = "0.33.0"\n')
    (host / "custom_nodes" / "DINOTile").symlink_to(PACK)
    for index in range(6):
        file = host / "models" / "dino" / f"{index}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    _, lines = told()
    assert line(lines, "FLUX.1-dev").endswith("ok      black-forest-labs/FLUX.1-dev")
    assert line(lines, "dinov2-small").startswith("  ok") and not any("a DINO" in one for one in lines)
    assert line(lines, str(host)).endswith("version 0.33.0") and line(lines, "DINOTile").startswith("  ok")
    assert line(lines, "models/dino").endswith("0.safetensors, 1.safetensors, 2.safetensors, 3.safetensors and 2 more")
    assert "docs/nodes.md" in line(lines, "models/vae")


def test_without_the_demo_models_the_exit_code_is_1(told, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "VAE", tmp_path / "gone.safetensors")
    code, lines = told()
    assert code == 1 and "MISSING" in line(lines, "gone.safetensors")


def test_every_extra_and_repository_is_looked_at():
    text = (PACK / "pyproject.toml").read_text()
    listed = text.partition("[project.optional-dependencies]")[2].partition("[project.urls]")[0]
    extras = set(re.findall(r"(?m)^(\w+) = \[", listed))
    assert extras - {extra for _, extra in EXTRAS.values()} == {"cli", "evidence", "dev"}
    assert set(REPOSITORIES) == set(FLUX)
