"""FLUX in little memory: fewer bits, offloading, attention in slices; what all of it must not change."""

import json
from importlib.util import find_spec

import accelerate
import pytest
import torch
from diffusers import FluxTransformer2DModel

from dinotile.flux_patch.rows import DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.diffusers.host import DiffusersHost
from dinotile.hosts.diffusers.load import load_transformer
from dinotile.hosts.diffusers.narrow import check_weights, narrow
from dinotile.hosts.diffusers.offload import Turns, check_offload
from dinotile.hosts.diffusers.text import load_text_encoder
from dinotile.hosts.host import Text
from dinotile.upscaling import joint
from dinotile.upscaling.report import model_memory
from dinotile.upscaling.settings import settings_for
from dinotile.upscaling.upscaler import Upscaler

from ...dino.tiny import tiny_encoder
from ...tiny import picture, tiny_adapter, tiny_flux, tiny_vae
from ...tiny_text import save_text_pipeline

CPU = torch.device("cpu")
NARROW = [
    "fp8",
    pytest.param(
        "nf4",
        marks=pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="no bitsandbytes here: pip install .[nf4]"),
    ),
]
SMALLEST = {"fp8": 0.25, "nf4": 0.125}  # of float32's bytes


def host(weights="full", **options):
    flux = tiny_flux()
    narrow(flux, weights)
    return DiffusersHost(flux, tiny_vae(), **options)


def velocity(flux_host, rows=()):
    x = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    return flux_host.velocity(x, torch.tensor([0.4]), text=Text.empty(flux_host.geometry), rows=rows)


@pytest.mark.parametrize("weights", NARROW)
@torch.no_grad()
def test_narrow_weights_take_less_and_compute_what_they_hold(weights):
    full, kept = host(), host(weights)
    share = model_memory(flux=kept.transformer)["flux"] / model_memory(flux=full.transformer)["flux"]
    assert SMALLEST[weights] < share < 0.5
    exact = velocity(full)
    for layer, wide in zip(kept.transformer.modules(), full.transformer.modules(), strict=True):
        if isinstance(wide, torch.nn.Linear):
            wide.weight.copy_(widened(layer.weight))
            if wide.bias is not None:
                wide.bias.copy_(layer.bias.float())
    found = velocity(kept)  # bitsandbytes lays weights out anew when it first computes on a CPU
    lost, other = (found - exact).abs().mean(), (found - velocity(full)).abs().mean()
    assert 1e-4 < lost / exact.abs().mean() < 0.1
    assert other < {"fp8": 1e-6, "nf4": 0.1}[weights] * lost  # bitsandbytes computes in bfloat16 here


def test_flux1_takes_what_the_readme_says():
    with torch.device("meta"):
        flux = FluxTransformer2DModel(guidance_embeds=True).to(torch.bfloat16)
    full = model_memory(flux=flux)["flux"]
    narrow(flux, "fp8")
    assert [round(size / 2**30, 1) for size in (full, model_memory(flux=flux)["flux"])] == [22.2, 14.1]


def widened(weight):
    if weight.dtype != torch.uint8:
        return weight.float()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, weight.quant_state).float()


@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.parametrize("weights", ["full", *NARROW])
@torch.no_grad()
def test_offloading_changes_no_bit(weights, offload):
    offloaded = host(weights, offload=offload)
    assert torch.equal(velocity(offloaded), velocity(host(weights)))
    away = {parameter.device.type for parameter in offloaded.transformer.parameters()}
    assert away == {"meta" if offload == "sequential" else "cpu"}  # accelerate's place for what is not on the device


@pytest.mark.parametrize("first", ["dino", "accelerate"])
@torch.no_grad()
def test_dino_acts_alike_beside_the_hooks_of_accelerate_in_any_order(first):
    def guided(flux_host):
        tokens = flux_host.adapter.module.project(features)
        return velocity(flux_host, [DinoRow(tokens, settings=Strength(1.0))])

    flux, adapter = tiny_flux(), tiny_adapter(tiny_flux())
    features = tiny_encoder("tiny-v2").encode(picture(28, 42), settings=adapter.config.encode)
    plain, wanted = velocity(host()), guided(DiffusersHost(tiny_flux(), tiny_vae(), adapter=tiny_adapter(flux)))
    if first == "accelerate":
        mixed = DiffusersHost(flux, tiny_vae(), adapter=adapter, offload="sequential")
    else:
        mixed = DiffusersHost(flux, tiny_vae(), adapter=adapter)
        accelerate.cpu_offload(flux, CPU)
    assert not torch.equal(wanted, plain)
    assert torch.equal(guided(mixed), wanted)
    mixed.remove()
    assert torch.equal(velocity(mixed), plain)


def test_one_model_at_a_time_is_on_the_device():
    """Each model notes whose turn it is while it computes; the order is the picture's way."""
    flux, seen = tiny_flux(), []
    given = {"dino": tiny_encoder("tiny-v2"), "adapter": tiny_adapter(flux)}
    settings = settings_for("demo", steps=2, tile=64, overlap=16)
    upscaler = Upscaler(flux, tiny_vae(), **given, offload="model")
    names = {"dino": upscaler.dino.model, "vae": upscaler.host.vae, "flux": flux}
    for name, model in names.items():
        for module in model.modules():
            if not list(module.children()):
                module.register_forward_pre_hook(
                    lambda *_, name=name, model=model: seen.append((name, model in upscaler.host.turns.there))
                )
    found, report = upscaler.upscale(picture(40, 52), settings)
    assert all(there for _, there in seen)
    order = [name for i, (name, _) in enumerate(seen) if i == 0 or seen[i - 1][0] != name]
    assert order == ["dino", "vae", "flux", "vae", "dino"]  # which measures the result
    assert set(report["model_memory"]) == {"flux", "vae", "adapter", "dino"}
    given = {"dino": tiny_encoder("tiny-v2"), "adapter": tiny_adapter(flux)}
    assert torch.equal(found, Upscaler(tiny_flux(), tiny_vae(), **given).upscale(picture(40, 52), settings)[0])


def test_what_waits_is_moved_away_before_the_next_come():
    moved = []

    class Noted(torch.nn.Linear):
        def to(self, place):
            moved.append((self.out_features, str(place)))
            return self

    flux, net, vae = (Noted(1, number) for number in (1, 2, 3))
    turns = Turns(torch.device("cuda"), "model")  # nothing goes there: it is only named
    for models in ((vae,), (flux, net), (flux, net), (vae,)):
        turns.use(*models)
    assert moved == [(3, "cuda"), (3, "cpu"), (1, "cuda"), (2, "cuda"), (1, "cpu"), (2, "cpu"), (3, "cuda")]


def test_a_return_to_the_device_that_fails_is_made_up_for_by_the_next_and_until_then_one_model_is_there():
    device, full, places = torch.device("cuda"), [], {}

    class Noted(torch.nn.Linear):
        def to(self, place):
            if self.out_features in full and str(place) == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            places[self.out_features] = str(place)
            return self

    turns = Turns(device, "none")  # nothing goes there: it is only named
    flux, _, vae = (turns.add(Noted(1, number)) for number in (1, 2, 3))
    assert list(turns.relief()) == ["one model at a time on the device"]
    turns.use(vae)
    full.append(2)
    with pytest.raises(torch.OutOfMemoryError):
        turns.restore()
    turns.use(flux)
    assert turns.offload == "model" and places == {1: "cuda", 2: "cpu", 3: "cpu"}
    full.clear()
    turns.restore()
    assert turns.offload == "none" and turns.there == () and {*places.values()} == {"cuda"}


def test_tiles_share_a_call_by_the_memory_that_is_free_beside_flux(monkeypatch):
    upscaler, there = Upscaler(tiny_flux(), tiny_vae(), offload="model"), []
    monkeypatch.setattr(joint, "default_tile_batch", lambda *_: there.append(upscaler.host.turns.there) or 8)
    settings = settings_for("demo", steps=1, tile=64, overlap=16, anchor=1.0)
    upscaler.upscale(picture(40, 52), settings)
    assert there == [(upscaler.host.transformer,)]  # and not the VAE, which guidance begins with


def test_text_encoders_encode_alike_layer_by_layer(tmp_path):
    save_text_pipeline(tmp_path)
    whole, parts = (
        load_text_encoder(tmp_path, device="cpu", dtype=torch.float32, offload=offload)
        for offload in ("none", "sequential")
    )
    assert all(p.is_meta for p in parts.pipeline.text_encoder_2.encoder.parameters())
    for prompt in ("a cat", ""):
        found, wanted = (each.encode(prompt, tokens=12, masked=True) for each in (parts, whole))
        assert torch.equal(found.context, wanted.context) and torch.equal(found.pooled, wanted.pooled)


def test_what_cannot_be_had_is_one_sentence(monkeypatch):
    for words, call in [
        ("offload 'disk' must be one of none, model, sequential", lambda: check_offload("disk", CPU)),
        ("offload model keeps models in the CPU's memory, and device cpu", lambda: check_offload("model", CPU)),
        ("weights 'int8' must be one of full, fp8, nf4", lambda: check_weights("int8", CPU)),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    monkeypatch.setattr("dinotile.hosts.diffusers.narrow.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="weights nf4 needs bitsandbytes: pip install bitsandbytes"):
        check_weights("nf4", CPU)
    check_weights("fp8", CPU)
    check_offload("none", CPU)
    check_offload("model", torch.device("cuda"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_model_that_bitsandbytes_made_is_refused_without_a_gpu_and_kept_as_it_is(tmp_path):
    tiny_flux().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is quantised by bitsandbytes, .* or give the full model, with --weights nf4"):
        load_transformer(tmp_path)
    flux = tiny_flux()
    flux.is_quantized = True
    with pytest.raises(ValueError, match="FLUX comes quantised already, and cannot be kept as fp8 too"):
        narrow(flux, "fp8")


@pytest.mark.parametrize("names", [("scale_weight", "scale_input"), ("weight_scale", "comfy_quant")])
@pytest.mark.parametrize("rows", [False, True])
@torch.no_grad()
def test_eight_bit_files_load_with_comfyuis_scales_and_without(weights_file, names, rows):
    """Of the layers of the blocks; what their numbers stand for comes out in the asked dtype, and FLUX draws the same by it."""
    flux, file = tiny_flux(), {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in flux.state_dict().items():
        if "blocks" in name and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.abs().amax(dim=1) / 448 if rows else tensor.abs().amax() / 448
            narrowed = (tensor / scale.reshape(-1, 1)).to(torch.float8_e4m3fn)
            layer = name.removesuffix(".weight")
            file |= {
                name: narrowed,
                f"{layer}.{names[0]}": scale,
                f"{layer}.{names[1]}": torch.ones((), dtype=torch.uint8),
            }
            tensor.copy_(narrowed.float() * scale.reshape(-1, 1))
        else:
            file[name] = tensor
    loaded = load_transformer(weights_file({f"model.diffusion_model.{name}": each for name, each in file.items()}))
    wanted = flux.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.state_dict().items())
    plain = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in wanted.items()}
    loaded = load_transformer(weights_file(plain), dtype=torch.bfloat16)
    assert all(torch.equal(tensor, plain[name].bfloat16()) for name, tensor in loaded.state_dict().items())
