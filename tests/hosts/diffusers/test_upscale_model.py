"""Upscale models without ComfyUI; tests/comfyui/inside_upscale.py holds them against its own nodes and spandrel."""

import dataclasses
import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from dinotile import demo
from dinotile.files.pictures import Picture, save_picture
from dinotile.hosts.diffusers import upscale_model
from dinotile.hosts.diffusers.compact import Compact
from dinotile.hosts.diffusers.sources import model_files
from dinotile.hosts.diffusers.upscale_model import check_upscale_model, enlarge, load_upscale_model
from dinotile.tiling.canvas import pad_to_grid
from dinotile.upscaling.api import load_upscaler, split_options
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from ...tiny import picture, tiny_flux, tiny_vae

CPU = torch.device("cpu")


def compact(*, scale=2, width=4, convs=1, seed=0):
    torch.manual_seed(seed)
    return Compact(width=width, convs=convs, scale=scale).eval().requires_grad_(False)


@pytest.fixture
def written(tmp_path):
    def write(network=None, *, state=None, name="up.safetensors"):
        state = (network or compact()).state_dict() if state is None else state
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("sizes", [{}, {"scale": 4, "width": 3, "convs": 3}, {"scale": 1, "convs": 0}], ids=str)
def test_a_compact_file_computes_what_its_paper_says(written, sizes):
    network = compact(**sizes)
    state, pixels = network.state_dict(), picture(5, 7, batch=2)
    model = load_upscale_model(written(network))
    x, scale = pixels, network.scale
    for index in range(0, 2 * sizes.get("convs", 1) + 2, 2):
        x = F.conv2d(x, state[f"body.{index}.weight"], state[f"body.{index}.bias"], padding=1)
        x = torch.where(x > 0, x, x * state[f"body.{index + 1}.weight"][:, None, None])
    last = 2 * sizes.get("convs", 1) + 2
    x = F.conv2d(x, state[f"body.{last}.weight"], state[f"body.{last}.bias"], padding=1)
    wanted = F.pixel_shuffle(x, scale) + pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert (model.kind, model.scale, model.name) == ("RealESRGAN Compact", scale, "up.safetensors")
    assert (enlarge(model, pixels, device=CPU) - wanted.clamp(0, 1)).abs().max() < 1e-6
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


def test_large_pictures_come_in_tiles_without_seams(written, monkeypatch):
    model, pixels = load_upscale_model(written()), picture(150, 90, batch=2)
    whole = enlarge(model, pixels, device=CPU)
    sides, stages = [], []
    monkeypatch.setattr(upscale_model, "TILE", 64)
    watched = model.module.register_forward_pre_hook(lambda _, given: sides.append(tuple(given[0].shape)))
    tiled = enlarge(model, pixels, device=CPU, progress=lambda *step: stages.append(step))
    watched.remove()
    assert set(sides) == {(1, 3, height, width) for height in (64, 54) for width in (64, 58)}
    assert stages[0] == ("enlarge", 0, 8) and stages[-1] == ("enlarge", 8, 8)
    assert (tiled - whole).abs().max() < 0.02  # what a tile's own border looks like has nearly no weight
    assert (tiled - whole)[..., :64, :64].abs().max() < 1e-6  # where the first tile alone looks


def test_it_stops_between_two_tiles(written, monkeypatch):
    model, asked = load_upscale_model(written()), []
    monkeypatch.setattr(upscale_model, "TILE", 64)

    def check():
        asked.append(1)
        if len(asked) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        enlarge(model, picture(150, 90), device=CPU, check=check)


def test_tiles_are_halved_where_memory_ends(written, monkeypatch):
    model = load_upscale_model(written())

    def call(seen):
        if seen.shape[-1] > most:
            raise torch.cuda.OutOfMemoryError("full")
        return model.module(seen).clamp(0, 1)

    small = upscale_model.UpscaleModel(model.name, model.kind, model.scale, model.module, call)
    pixels, most = picture(20, 400), 128
    assert (enlarge(small, pixels, device=CPU) - enlarge(model, pixels, device=CPU)).abs().mean() < 1e-3
    most = 64
    with pytest.raises(torch.cuda.OutOfMemoryError):
        enlarge(small, pixels, device=CPU)


def test_what_is_no_upscaler_of_colour_pictures_is_refused(written, tmp_path, monkeypatch):
    state = compact().state_dict()
    grey = state | {"body.0.weight": torch.zeros(4, 1, 3, 3)}
    one = state | {"body.4.weight": torch.zeros(4, 4, 3, 3), "body.4.bias": torch.zeros(4)}
    part = {key: tensor for key, tensor in state.items() if key != "body.2.bias"}
    nothing = state | {"body.4.weight": torch.zeros(0, 4, 3, 3), "body.4.bias": torch.zeros(0)}
    whole = state | {"body.1.weight": torch.zeros(4, dtype=torch.int8)}
    for wrong, words in (
        (grey, "takes 1 channels and gives 12 per source pixel, needed are 3 and"),
        (one, "takes 3 channels and gives 4 per source pixel, needed are 3 and"),
        (part, r"up.safetensors holds body.2.bias of shape None, needed in a RealESRGAN Compact is \(4,\)"),
        (nothing, "takes 3 channels and gives 0 per source pixel, needed are 3 and"),
        (whole, "holds body.1.weight as torch.int8"),
    ):
        with pytest.raises(ValueError, match=words):
            load_upscale_model(written(state=wrong))
    torch.save(state, tmp_path / "up.pth")
    with pytest.raises(ValueError, match=r"up.pth is a pickle .* only safetensors is read"):
        check_upscale_model(tmp_path / "up.pth")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    monkeypatch.setattr(upscale_model, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r'are read by spandrel, not installed here: pip install "dinotile\[upscale\]"'
    ):
        check_upscale_model(demo.VAE)


def test_options_are_refused_before_anything_is_loaded(tmp_path, dinotile):
    with pytest.raises(
        ValueError, match="no upscale model file .*gone.safetensors: give a .safetensors file, or bicubic"
    ):
        split_options({"upscale_model": str(tmp_path / "gone.safetensors")})
    save_picture(Picture(picture(8, 8)), tmp_path / "in.png")
    arguments = ["-o", tmp_path / "out.png", "--upscale-model", tmp_path / "gone.safetensors"]
    code, out, err = dinotile("upscale", tmp_path / "in.png", *arguments)
    assert code == 2 and out == "" and err.startswith("dinotile: there is no upscale model file ") and "load" not in err


def test_it_makes_the_first_enlargement_and_the_size_stays_exact(written):
    """At denoise 0 the result is the enlarged picture, through the VAE: enlarged fourfold, then brought to size."""
    network = compact(scale=4)
    network.body[-1].bias.sub_(0.5)
    model = load_upscale_model(written(network))
    upscaler, source = Upscaler(tiny_flux(), tiny_vae(), upscale_model=model), picture(40, 52)
    settings = UpscaleSettings(scale=1.7, denoise=0.0, steps=1, tile=64, overlap=16)
    found, report = upscaler.upscale(source, settings)
    larger = F.interpolate(model.call(source), size=(68, 88), mode="bicubic", antialias=True).clamp(0, 1)
    padded = pad_to_grid(larger, grid=upscaler.host.latents.token)
    wanted = upscaler.host.decode(upscaler.host.encode(padded))[..., :68, :88]
    assert found.shape == (1, 3, 68, 88)
    assert (found - wanted).abs().max() < 1e-5
    alone = dataclasses.replace(settings, tile_fit="exact", vae_detail=1.0, mode="sequential")
    tiles, told = upscaler.upscale(source, alone)  # each of its own part, with what the VAE loses put back
    assert told["tiles"]["count"] == 4 and (tiles - larger).abs().max() < 1e-4
    plain, without = Upscaler(tiny_flux(), tiny_vae()).upscale(source, settings)
    assert (found - plain).abs().mean() > 1e-4
    assert report["upscale_model"] == {"file": "up.safetensors", "kind": "RealESRGAN Compact", "scale": 4}
    assert report["model_memory"]["upscale_model"] > 0 and report["seconds"]["enlarge"] >= 0
    assert without["upscale_model"] is None and "enlarge" not in without["seconds"]


def test_it_takes_its_turn_on_the_device(written):
    model, settings = load_upscale_model(written()), UpscaleSettings(steps=1, tile=64, overlap=16)
    upscaler, seen = Upscaler(tiny_flux(), tiny_vae(), upscale_model=model, offload="model"), []
    for name, module in {"upscaler": model.module.body[0], "vae": upscaler.host.vae.encoder.layers[0]}.items():
        module.register_forward_pre_hook(lambda *_, name=name: seen.append((name, upscaler.host.turns.there)))
    upscaler.upscale(picture(40, 52), settings)
    assert [name for name, _ in seen][:2] == ["upscaler", "vae"]
    assert seen[0][1] == (model.module,) and seen[1][1] == (upscaler.host.vae,)


def test_nan_from_an_upscale_model_is_told(written):
    state = compact().state_dict() | {"body.4.bias": torch.full((12,), torch.nan)}
    upscaler = Upscaler(tiny_flux(), tiny_vae(), upscale_model=load_upscale_model(written(state=state)))
    with pytest.raises(ValueError, match="stage enlarge gave values that are NaN .* use another upscale model"):
        upscaler.upscale(picture(40, 52), UpscaleSettings(steps=1, tile=64, overlap=16))


def test_the_demo_has_its_own_and_bicubic_is_none(models):
    own, none = load_upscaler("demo"), load_upscaler("demo", upscale_model="bicubic")
    assert own.upscale_model is not None and own.upscale_model.scale == 2 and none.upscale_model is None
    assert model_files("demo", model_path=models[1]).upscale_model is None
    assert model_files("dev").upscale_model is None
    assert model_files("demo", upscale_model="x.safetensors").upscale_model == "x.safetensors"


def test_it_is_an_option_of_the_command_and_of_the_report(models, dinotile, written, tmp_path):
    save_picture(Picture(picture(32, 56)), tmp_path / "in.png")
    drawn = {}
    for name in (str(written()), "bicubic"):
        out, report = tmp_path / "out.png", tmp_path / "r.json"
        options = ["--upscale-model", name, "--denoise", 0, "--report", report, "--overwrite"]
        code, _, err = dinotile("upscale", tmp_path / "in.png", "-o", out, *models, *options)
        assert code == 0, err
        drawn[name], told = out.read_bytes(), json.loads(report.read_text())
        assert told["options"]["upscale_model"] == name
        assert (told["pictures"][0]["upscale_model"] is None) == (name == "bicubic")
    assert len(set(drawn.values())) == 2
    code, _, err = dinotile(
        "upscale", tmp_path / "in.png", "-o", written(), "--overwrite", "--upscale-model", written()
    )
    assert code == 2 and "is the input itself" in err
