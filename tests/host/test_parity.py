"""ComfyUI and diffusers on the same weights, picture, adapter, noise, sigmas and tiles."""

import pytest
import torch
from safetensors.torch import load_file

from dinotile.dino.encode import EncodeSettings
from dinotile.dino.load import load_dino
from dinotile.flux_patch import DinoRow, Strength, load_adapter
from dinotile.flux_patch.diffusers_flux import DinoFlux
from dinotile.standalone.flux import Text, predict_velocity
from dinotile.standalone.sampler import sample
from dinotile.tiling.plan import plan_tiles

from . import models


@pytest.fixture(scope="module")
def run(measured) -> dict:
    numbers = measured["for_diffusers"]
    assert "error" not in numbers, numbers["error"]
    return numbers | load_file(f"{measured['folder']}/run.safetensors")


@pytest.fixture(scope="module")
def transformer(base):
    return models.flux_transformer(base / "models" / "diffusion_models" / models.FLUX)


def through_diffusers(run, transformer, *, dino=None, tokens=None):
    plan = plan_tiles(run["height"], run["width"], tile=run["tile"], overlap=run["overlap"]).scaled(8)

    def row(tile) -> DinoRow:
        box = tile.box
        sides = (box.top / plan.height, box.left / plan.width, box.height / plan.height, box.width / plan.width)
        return DinoRow(tokens, tile.image, sides, Strength(run["strength"]))

    return sample(
        lambda x, sigma, tiles: predict_velocity(
            transformer,
            x,
            sigma=sigma,
            text=Text(run["context"], run["pooled"]),
            guidance=3.5,
            dino=dino,
            rows=[row(tile) for tile in tiles] if dino else (),
        ),
        run["latent"],
        noise=run["noise"],
        sigmas=run["sigmas"].tolist(),
        plan=plan,
    )


def apart(a, b) -> float:
    return float((a - b).norm() / b.norm())


def test_comfyui_and_diffusers_agree_without_dino(run, transformer, report):
    difference = apart(through_diffusers(run, transformer), run["without"])
    report(f"ComfyUI and diffusers without DINO, relative: {difference:.1e}")
    assert difference <= 1e-4


def test_comfyui_and_diffusers_agree_with_dino(run, transformer, base, report):
    encoder = load_dino(base / "models" / "dino" / models.DINO)
    adapter = load_adapter(base / "models" / "model_patches" / models.TRAINED)
    with torch.no_grad():
        tokens = adapter.project(encoder.encode(run["pixels"], settings=EncodeSettings(side=224)))
    dino = DinoFlux(transformer, adapter)
    result = through_diffusers(run, transformer, dino=dino, tokens=tokens)
    dino.remove()
    difference, effect = apart(result, run["result"]), apart(run["without"], run["result"])
    report(f"ComfyUI and diffusers with DINO, relative: {difference:.1e}, DINO's own effect: {effect:.2f}")
    assert difference <= 1e-4
    assert effect > 0.01
