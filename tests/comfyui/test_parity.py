"""ComfyUI and diffusers on the same weights, picture, adapter, noise, sigmas and tiles."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dinotile
from dinotile.demo import SAMPLE
from dinotile.dino.encode import EncodeSettings
from dinotile.dino.load import load_dino
from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.flux_patch.families import FLUX1, FLUX2, plan_tiles
from dinotile.flux_patch.guide import PictureGuide
from dinotile.flux_patch.memo import RunMemo
from dinotile.flux_patch.redux import ReduxTokens
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.diffusers.load import load_controlnet, load_transformer, load_vae
from dinotile.hosts.diffusers.vae import encode
from dinotile.hosts.host import Hint, Text
from dinotile.tiling.canvas import cut
from dinotile.tiling.moving import moved
from dinotile.upscaling.joint import JointEuler, sample
from dinotile.upscaling.settings import UpscaleSettings

from ..tiny import tiny_vae, tiny_vae2
from . import models
from .conftest import apart

CHECKS = {"tiny": "for_diffusers", "demo": "demo_for_diffusers", "flux2": "flux2_for_diffusers"}
PACK = Path(__file__).parents[2]
DEMO = PACK / "demo"
DEMO_FILE = "dinotile-demo.safetensors"
SEED = 5  # of the runs inside ComfyUI


@pytest.fixture(scope="module", params=CHECKS)
def run(request, measured) -> dict:
    numbers = measured[CHECKS[request.param]]
    assert "error" not in numbers, numbers["error"]
    return numbers | load_file(f"{measured['folder']}/{request.param}.safetensors") | {"models": request.param}


@pytest.fixture(scope="module")
def transformer(run, base):
    if run["models"] == "demo":
        return load_transformer(DEMO / "diffusion_models" / "dinotile-demo").eval().requires_grad_(False)
    if run["models"] == "flux2":
        return load_transformer(base / "models" / "diffusion_models" / models.FLUX2_DEV).eval().requires_grad_(False)
    return models.flux_transformer(base / "models" / "diffusion_models" / models.FLUX)


@pytest.fixture(scope="module")
def guide(run, base):
    """The DINO encoder, the adapter and the settings of the features."""
    if run["models"] == "demo":
        adapter = load_adapter(DEMO / "model_patches" / DEMO_FILE)
        return load_dino(DEMO / "dino" / DEMO_FILE), adapter, EncodeSettings(layers=adapter.config.layers)
    file = models.FLUX2_FOR_DEV if run["models"] == "flux2" else models.TRAINED
    adapter = load_adapter(base / "models" / "model_patches" / file)
    return load_dino(base / "models" / "dino" / models.DINO), adapter, EncodeSettings(side=224)


def through_diffusers(run, transformer, *, adapter=None, tokens=None, redux=None, controlnet=None, moving=False):
    second = run["models"] == "flux2"
    family, fit = (FLUX2, "exact") if second else (FLUX1, "balanced")
    in_px = plan_tiles(run["height"], run["width"], tile=run["tile"], overlap=run["overlap"], family=family, fit=fit)
    plan = in_px.latent
    host = DiffusersHost(transformer, tiny_vae2() if second else tiny_vae(), adapter=adapter, controlnet=controlnet)
    shown = None if redux is None else (redux, (plan.height, plan.width))
    sampler = JointEuler(host, Text(run["context"], run["pooled"]), UpscaleSettings(), redux=shown)
    guide = None if adapter is None else PictureGuide(tokens, Strength(run["strength"]))
    canvas, memo = (plan.height, plan.width), RunMemo()

    def velocity(x, sigma, rows):
        hint = None
        if controlnet is not None:
            hint = Hint(torch.stack([cut(run["hint"][row.image], row.box) for row in rows]), run["strength"])
        return sampler.velocity(x, sigma, rows, canvas=canvas, guide=guide, hint=hint, memo=memo)

    result = sample(
        velocity,
        run["latent"],
        noise=run["noise"],
        sigmas=run["sigmas"].tolist(),
        plan=plan,
        move=(lambda step: moved(in_px, step=step, seed=SEED).latent) if moving else None,
    )
    host.remove()
    return result


def test_comfyui_and_diffusers_agree_without_dino(run, transformer, report):
    with torch.no_grad():
        difference = apart(through_diffusers(run, transformer), run["without"])
    report(f"ComfyUI and diffusers without DINO, {run['models']} models, relative: {difference:.1e}")
    assert difference <= 1e-6


@pytest.mark.parametrize("run", ["tiny"], indirect=True)
def test_comfyui_and_diffusers_agree_with_redux(run, transformer):
    with torch.no_grad():
        redux = ReduxTokens(run["redux"], 3, Strength(run["strength"]))
        result = through_diffusers(run, transformer, redux=redux)
    assert apart(result, run["shown"]) <= 1e-6 < 1e-3 < apart(run["without"], run["shown"])


@pytest.mark.parametrize("run", ["tiny"], indirect=True)
def test_comfyui_and_diffusers_agree_with_dino_and_a_controlnet(run, transformer, guide, base, report):
    encoder, adapter, settings = guide
    controlnet = load_controlnet(base / "models" / "controlnet" / models.CONTROLNET)
    with torch.no_grad():
        tokens = adapter.module.project(encoder.encode(run["pixels"], settings=settings))
        result = through_diffusers(run, transformer, adapter=adapter, tokens=tokens, controlnet=controlnet)
    difference, effect = apart(result, run["controlled"]), apart(run["result"], run["controlled"])
    report(
        f"ComfyUI and diffusers with DINO and a ControlNet, relative: {difference:.1e}, its own effect: {effect:.1e}"
    )
    assert difference <= 1e-6 < 1e-2 < effect


def test_comfyui_and_diffusers_agree_with_dino(run, transformer, guide, report):
    encoder, adapter, settings = guide
    with torch.no_grad():
        tokens = adapter.module.project(encoder.encode(run["pixels"], settings=settings))
        result = through_diffusers(run, transformer, adapter=adapter, tokens=tokens)
        by_moving = through_diffusers(run, transformer, adapter=adapter, tokens=tokens, moving=True)
    difference, effect = apart(result, run["result"]), apart(run["without"], run["result"])
    names = f"ComfyUI and diffusers with DINO, {run['models']} models"
    report(f"{names}, relative: {difference:.1e}, DINO's own effect: {effect:.1e}")
    assert difference <= 1e-6
    assert apart(by_moving, run["moved"]) <= 1e-6 < 1e-4 < apart(run["moved"], run["result"])
    assert effect > {"tiny": 0.1, "demo": 1e-3, "flux2": 0.01}[run["models"]]  # so that the above is no accident


def test_the_demo_is_compared_in_fp32_on_several_tiles_of_the_same_latent(measured):
    numbers = measured["demo_for_diffusers"]
    assert numbers["tiles"] == 2
    assert numbers["computes in"] == "torch.float32"
    run = load_file(f"{measured['folder']}/demo.safetensors")
    latent = encode(load_vae(DEMO / "vae" / DEMO_FILE), run["pixels"])
    assert apart(run["latent"], latent) <= 1e-4


SAME = {
    "as shipped": {},
    "FLUX alone, guided by DINO, another seed and scale": {
        "fidelity": 0.0, "denoise": 0.5, "steps": 3, "seed": 3, "scale": 1.5, "dino_guidance": 2.0,
    },
    "without DINO": {"no_dino": True, "fidelity": 0.5, "steps": 2, "tile": 192, "overlap": 48, "tile_fit": "exact"},
    "guided by source and DINO, without an adapter": {
        "fidelity": 0.0, "denoise": 0.5, "steps": 2, "scale": 1.0, "dino_strength": 0.0, "anchor": 0.5, "guide": 1.0,
    },
    "windows that move": {"fidelity": 0.0, "denoise": 0.6, "steps": 2, "seed": 4, "overlap": 16, "moving": True},
}  # fmt: skip


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_the_node_and_the_command_line_draw_the_same_picture(server, options, tmp_path):
    prompt = json.loads((PACK / "workflows" / "api" / "demo.json").read_text())
    loader, upscale, save = (
        next(key for key, node in prompt.items() if node["class_type"] == kind)
        for kind in ("LoadImage", "DinoTile_Upscale", "SaveImage")
    )
    photo = Image.open(SAMPLE)
    photo = photo.crop((0, 0, photo.width // 2, photo.height // 2))
    photo.save(tmp_path / "photo.png")
    prompt[loader]["inputs"]["image"] = server.upload(photo, "parity.png")
    inputs, chosen = prompt[upscale]["inputs"], dict(options)
    inputs |= {"cfg": chosen.pop("dino_guidance", 1.0)}
    if chosen.pop("no_dino", False):
        del inputs["dino"], inputs["adapter"]
    inputs |= chosen
    result = server.run(prompt)
    assert result.ok, result
    by_node = np.asarray(server.picture(result.outputs[save]["images"][0])).astype(int)
    by_command = np.asarray(dinotile.upscale(tmp_path / "photo.png", **options)).astype(int)
    assert by_node.shape == by_command.shape
    assert abs(by_node - by_command).max() <= 1
