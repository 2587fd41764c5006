"""A stage that gives NaN or infinity is named, and no picture is made; on every path."""

import dataclasses

import numpy as np
import pytest
import torch

from dinotile.files.pictures import to_image
from dinotile.hosts.finite import REMEDIES
from dinotile.upscaling.pipeline import upscale
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ..dino.tiny import TINY, tiny_encoder
from ..tiny import overflowing, picture, tiny_adapter, tiny_flux, tiny_vae

SETTINGS = UpscaleSettings(tile=64, overlap=16, steps=1, denoise=0.5)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    from dinotile.dino.specs import SPECS

    for name, spec in TINY.items():
        monkeypatch.setitem(SPECS, name, spec)


def poisoned(module, part, value=float("nan")):
    """The module with one number of the first weight whose name holds ``part`` changed."""
    weight = next(parameter for name, parameter in module.named_parameters() if part in name and parameter.ndim > 1)
    with torch.no_grad():
        weight.view(-1)[0] = value
    return module


@pytest.mark.parametrize(
    "stage,part",
    [("encode", "encoder"), ("decode", "decoder"), ("sample", "flux"), ("sample", "site"), ("dino", "project")],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_stage_that_gave_what_is_not_finite_is_named_with_what_to_try(stage, part, value):
    flux, vae = tiny_flux(), tiny_vae()
    adapter = tiny_adapter(flux)
    if part in ("encoder", "decoder"):
        poisoned(vae, part, value)
    elif part == "flux":
        poisoned(flux, "proj_out", value)
    else:
        poisoned(adapter.module, ".v.weight" if part == "site" else "patch", value)
    upscaler = Upscaler(flux, vae, dino=tiny_encoder("tiny-v2"), adapter=adapter)
    with pytest.raises(ValueError, match=f"stage {stage} gave values that are NaN or infinite.*float32") as error:
        upscaler.upscale(picture(40, 48), SETTINGS)
    assert "\n" not in str(error.value)


def test_what_to_try_is_an_option_of_either_shell():
    assert all(("--dtype" in said) == ("in ComfyUI --" in said) for said in REMEDIES.values())


def test_the_small_vae_that_guidance_looks_with_is_named_and_not_flux():
    upscaler = Upscaler(tiny_flux(), tiny_vae(), decoder=poisoned(tiny_vae(), "encoder"))
    with pytest.raises(ValueError, match="stage encode gave values that are NaN or infinite"):
        upscaler.upscale(picture(40, 48), dataclasses.replace(SETTINGS, anchor=1.0))


def test_the_vae_s_infinity_is_not_taken_for_white():
    """Half precision overflows where float32 does not: clamped, it would be a picture."""
    whole = Upscaler(tiny_flux(), overflowing(tiny_vae()))
    whole.upscale(picture(40, 48), SETTINGS)
    half = Upscaler(tiny_flux(), overflowing(tiny_vae()), dtype=torch.float16)
    with pytest.raises(ValueError, match="stage decode gave"):
        half.upscale(picture(40, 48), SETTINGS)


@pytest.mark.parametrize("stage", ["encode", "sample", "decode"])
def test_any_host_and_sampler_is_looked_at(stage, flux, vae, monkeypatch):
    host = Upscaler(flux, vae).host
    broken = torch.full((1, 16, 12, 12), float("nan"))

    class Sampler:
        def __call__(self, latents, **more):
            return broken if stage == "sample" else latents

    if stage != "sample":
        monkeypatch.setattr(host, stage, lambda given, told=None: broken)
    with pytest.raises(ValueError, match=f"stage {stage} gave"):
        upscale(host, picture(48, 48), SETTINGS, sampler=Sampler())


@pytest.mark.parametrize("field", dataclasses.fields(UpscaleSettings), ids=lambda field: field.name)
def test_no_setting_may_be_nan_infinite_or_a_text(field):
    if field.type == "bool":
        return
    for value in (float("nan"), float("inf"), -float("inf"), "2", None, np.float32("nan")):
        with pytest.raises(ValueError, match=f"{field.name.replace('_', ' ')} .*must be"):
            dataclasses.replace(SETTINGS, **{field.name: value})


def test_a_picture_that_is_not_finite_is_not_drawn_black():
    with pytest.raises(ValueError, match="NaN or infinite"):
        to_image(torch.full((1, 3, 4, 4), float("nan")))
