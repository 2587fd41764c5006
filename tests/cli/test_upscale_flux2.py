"""FLUX.2 on the command line."""

import re

import numpy as np
import pytest
from PIL import Image

from dinotile import demo
from dinotile.dino.specs import SPECS
from dinotile.flux_patch.adapter_config import adapter_config
from dinotile.flux_patch.checkpoint import new_adapter, save_adapter
from dinotile.flux_patch.geometry import geometry_of

from ..flux_patch.conftest import trained_like
from ..tiny import tiny_flux2, tiny_vae2
from ..tiny_text import save_dev_text, save_klein_text
from .refused import photo as photo


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    """A whole pipeline of FLUX.2 klein, as diffusers saves it."""
    folder = save_klein_text(tmp_path_factory.mktemp("klein"))
    tiny_flux2().save_pretrained(folder / "transformer")
    tiny_vae2().save_pretrained(folder / "vae")
    return folder


def test_flux_2_draws_by_prompt_and_by_dino(dinotile, klein, photo, tmp_path):
    sizes = ["--model-path", klein, "--dtype", "float32", "--tile", 64, "--overlap", 16, "--denoise", 0.9, "--steps", 1]
    config = adapter_config(SPECS["dinov2-demo"], geometry_of(tiny_flux2()), layers="2/3", width=32, grid=4)
    save_adapter(trained_like(new_adapter(config)), tmp_path / "adapter.safetensors")
    dino = ["--dino", demo.DINO, "--adapter", tmp_path / "adapter.safetensors"]
    drawn = {}
    for name, options in {
        "cat": ["--variant", "klein", "--no-dino", "--prompt", "cat"],
        "dog": ["--variant", "klein", "--no-dino", "--prompt", "dog"],
        "cfg": ["--variant", "klein-base", "--no-dino", "--prompt", "cat"],
        "dino": ["--variant", "klein", "--prompt", "cat", *dino],
    }.items():
        code, out, err = dinotile("upscale", photo, "-o", tmp_path / f"{name}.png", *sizes, *options)
        assert code == 0, err
        drawn[name] = np.asarray(Image.open(tmp_path / f"{name}.png"), int)
        assert drawn[name].shape == (80, 104, 3)
    for other in ("dog", "cfg", "dino"):
        assert abs(drawn["cat"] - drawn[other]).max() > 0, other


def test_flux_2_dev_draws_by_prompt(dinotile, photo, tmp_path):
    save_dev_text(tmp_path)
    tiny_flux2().save_pretrained(tmp_path / "transformer")
    tiny_vae2().save_pretrained(tmp_path / "vae")
    options = ["--variant", "flux2-dev", "--model-path", tmp_path, "--no-dino", "--dtype", "float32", "--tile", 64]
    drawn = []
    for prompt in ("cat", "dog"):
        out = tmp_path / f"{prompt}.png"
        code, _, err = dinotile(
            "upscale", photo, "-o", out, *options, "--overlap", 16, "--denoise", 0.9, "--steps", 1, "--prompt", prompt
        )
        assert code == 0, err
        drawn.append(np.asarray(Image.open(out), int))
    assert abs(drawn[0] - drawn[1]).max() > 0


def test_what_flux_2_would_take_is_estimated_at_its_own_size(dinotile, photo):
    lines = {}
    for variant in ("dev", "klein", "klein-base", "flux2-dev"):
        code, out, err = dinotile("upscale", photo, "--variant", variant, "--no-dino", "-o", "out.png", "--dry-run")
        assert code == 0, err
        lines[variant] = float(re.search(r"FLUX (\d[\d.]*)", out)[1])
    assert lines["klein"] == lines["klein-base"] < lines["dev"] / 2 < lines["flux2-dev"] / 4


def test_klein_base_without_text_encoders_is_refused_before_it_is_loaded(dinotile, photo, tmp_path):
    tiny_flux2().save_pretrained(tmp_path / "flux")
    options = ["--variant", "klein-base", "--model-path", tmp_path / "flux", "--no-dino", "-o", tmp_path / "out.png"]
    code, out, err = dinotile("upscale", photo, *options)
    assert code == 2 and err.count("\n") == 1
    assert (
        "klein-base is guided by text at cfg 4, and" in err and "brings no text encoders: give a whole pipeline" in err
    )
    assert "brings no text encoders" not in dinotile("upscale", photo, *options, "--cfg", 1)[2]
