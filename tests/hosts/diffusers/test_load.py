import json
import pickle
import time

import pytest
import torch

from dinotile.flux_patch.geometry import geometry_of
from dinotile.hosts.diffusers import vae as vae_path
from dinotile.hosts.diffusers.flux import flux_velocity
from dinotile.hosts.diffusers.layouts import flux_config
from dinotile.hosts.diffusers.load import load_transformer, load_vae, read_geometry
from dinotile.hosts.diffusers.sources import dino_path
from dinotile.hosts.diffusers.text import load_text_encoder
from dinotile.hosts.host import Text

from ...near import assert_near
from ...tiny import picture, tiny_flux, tiny_kl
from ...tiny_text import save_text_pipeline


def velocity(flux):
    x = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    return flux_velocity(flux, x, torch.tensor([0.4]), text=Text.empty(geometry_of(flux)), call=None)


def assert_same_model(loaded, expected):
    """The weights bit for bit; what they compute as far as kernels do not depend on where the weights lie."""
    found, wanted = loaded.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert_near(velocity(loaded), velocity(expected))


@pytest.fixture(params=["pipeline folder", "folder", "file", "all-in-one file"])
def flux_source(request, tmp_path, weights_file, flux):
    if request.param == "pipeline folder":
        flux.save_pretrained(tmp_path / "transformer")
        return tmp_path
    if request.param == "folder":
        flux.save_pretrained(tmp_path)
        return str(tmp_path)
    prefix = "model.diffusion_model." if request.param == "all-in-one file" else ""
    return weights_file({f"{prefix}{name}": tensor for name, tensor in flux.state_dict().items()})


def test_flux_loads_from_every_place_alike(flux, flux_source):
    loaded = load_transformer(flux_source)
    assert_same_model(loaded, flux)
    assert loaded.dtype == torch.float32 and not loaded.training


def test_flux_loads_in_the_asked_dtype(flux, weights_file):
    assert load_transformer(weights_file(flux.state_dict()), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_guidance_is_read_from_the_tensors(weights_file):
    dev = tiny_flux(guidance=True)
    assert_same_model(load_transformer(weights_file(dev.state_dict())), dev)


def test_flux_dev_in_the_original_layout_is_recognised():
    shapes = {
        "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 4096),
        "vector_in.in_layer.weight": (3072, 768),
        "guidance_in.in_layer.weight": (3072, 256),
        "final_layer.linear.weight": (64, 3072),
        "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
    }
    shapes |= {f"double_blocks.{i}.img_mod.lin.bias": (1,) for i in range(19)}
    shapes |= {f"single_blocks.{i}.linear1.bias": (1,) for i in range(38)}
    config = flux_config(shapes, name="flux1-dev.safetensors")
    assert (config["num_layers"], config["num_single_layers"], config["num_attention_heads"]) == (19, 38, 24)
    assert (config["joint_attention_dim"], config["pooled_projection_dim"]) == (4096, 768)
    assert config["guidance_embeds"] is True
    with pytest.raises(ValueError, match="256 wide in the original layout, which diffusers reads at 3072 only"):
        flux_config(shapes | {"img_in.weight": (256, 64)}, name="small.safetensors")


def taesd(vae):
    """TAESD's own key layout, written down once more."""
    weights = {}
    for name, tensor in vae.state_dict().items():
        half, _, number, rest = name.split(".", 3)
        weights[f"taesd_{half}.{int(number) + (half == 'decoder')}.{rest}"] = tensor
    return weights


@pytest.fixture(scope="module")
def taesd_vae():
    """TAESD is always 64 channels wide."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    return AutoencoderTiny(latent_channels=16).eval().requires_grad_(False)


@pytest.mark.parametrize("layout", ["taesd", "taesd with FLUX's numbers", "diffusers"])
def test_a_taesd_file_is_diffusers_tiny_autoencoder(taesd_vae, weights_file, layout):
    weights = taesd_vae.state_dict() if layout == "diffusers" else taesd(taesd_vae)
    if layout.endswith("numbers"):
        weights |= {"vae_scale": torch.tensor(0.3611), "vae_shift": torch.tensor(0.1159)}
    loaded = load_vae(weights_file(weights))
    pixels = picture(32, 48)
    latents = vae_path.encode(taesd_vae, pixels)
    assert (vae_path.encode(loaded, pixels) - latents).abs().max() < 1e-6
    assert (vae_path.decode(loaded, latents) - vae_path.decode(taesd_vae, latents)).abs().max() < 1e-6


def test_a_taesd_with_other_numbers_gives_the_latents_that_comfyui_gives(taesd_vae, weights_file):
    """ComfyUI: latents = (encoder / vae_scale + vae_shift - 0.1159) * 0.3611."""
    path = weights_file(taesd(taesd_vae) | {"vae_scale": torch.tensor(0.5), "vae_shift": torch.tensor(0.2)})
    pixels = picture(32, 48)
    expected = (vae_path.encode(taesd_vae, pixels) / 0.5 + 0.2 - 0.1159) * 0.3611
    assert torch.allclose(vae_path.encode(load_vae(path), pixels), expected, atol=1e-6)


def original_kl(vae):
    """FLUX's ae.safetensors layout, written down once more."""
    weights = {}
    for name, tensor in vae.state_dict().items():
        for old, new in (
            ("mid_block.resnets.0", "mid.block_1"),
            ("mid_block.resnets.1", "mid.block_2"),
            ("mid_block.attentions.0", "mid.attn_1"),
            ("down_blocks", "down"),
            ("up_blocks", "up"),
            ("resnets", "block"),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("conv_shortcut", "nin_shortcut"),
            ("conv_norm_out", "norm_out"),
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ):
            name = name.replace(old, new)
        if ".up." in name:
            half, up, number, rest = name.split(".", 3)
            name = f"{half}.{up}.{3 - int(number)}.{rest}"
        if "attn_1" in name and name.endswith("weight") and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        weights[name] = tensor
    return weights


@pytest.mark.parametrize("layout", ["original", "all-in-one", "diffusers", "folder"])
def test_an_autoencoder_kl_loads_from_every_place_alike(tmp_path, weights_file, layout):
    vae = tiny_kl()
    source = tmp_path
    if layout == "folder":
        vae.save_pretrained(tmp_path / "vae")
    elif layout == "diffusers":
        source = weights_file(vae.state_dict())
    else:
        prefix = "vae." if layout == "all-in-one" else ""
        source = weights_file({f"{prefix}{key}": tensor for key, tensor in original_kl(vae).items()})
    loaded = load_vae(source)
    pixels = picture(32, 48)
    assert loaded.config["scaling_factor"] == 0.3611 and loaded.config["shift_factor"] == 0.1159
    assert torch.allclose(vae_path.encode(loaded, pixels), vae_path.encode(vae, pixels), atol=1e-6)
    latents = vae_path.encode(vae, pixels)
    assert torch.allclose(vae_path.decode(loaded, latents), vae_path.decode(vae, latents), atol=1e-6)


def test_the_demo_models_fit_together():
    from dinotile import demo
    from dinotile.hosts.diffusers.flux import check_models

    check_models(load_transformer(demo.FLUX), load_vae(demo.VAE))


@pytest.mark.parametrize("load", [load_transformer, load_vae])
def test_wrong_files_are_refused_in_one_sentence(load, tmp_path, weights_file, flux):
    whole = weights_file(flux.state_dict(), "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "model.bin").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "folder").mkdir()
    weights_file({"something.else": torch.zeros(2)}, "foreign.safetensors")
    weights_file({"img_in.weight": torch.zeros(2, 2), "img_in.scale_weight": torch.ones(1)}, "scaled.safetensors")
    for name, words in [
        ("cut.safetensors", "cut short or damaged"),
        ("model.bin", "pickle"),
        ("model.gguf", "GGUF"),
        ("foreign.safetensors", "it holds something.else"),
        ("scaled.safetensors", "quantised with scales"),
        ("folder", "config.json"),
        ("missing.safetensors", "there is no model"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_files_that_lack_tensors_are_refused(flux, taesd_vae, weights_file):
    lacking = {name: tensor for name, tensor in flux.state_dict().items() if "single" not in name}
    with pytest.raises(ValueError, match="does not hold a whole model"):
        load_transformer(weights_file(lacking | {"single_transformer_blocks.0.proj_out.bias": torch.zeros(128)}))
    kl = original_kl(tiny_kl())
    kl.pop("decoder.up.2.block.1.conv2.weight")
    with pytest.raises(ValueError, match="lacks tensors"):
        load_vae(weights_file(kl))
    encoder = {name: tensor for name, tensor in taesd(taesd_vae).items() if "encoder" in name}
    with pytest.raises(ValueError, match="no VAE that is known"):
        load_vae(weights_file(encoder))
    with pytest.raises(ValueError, match="no part of a TAESD"):
        load_vae(weights_file(taesd(taesd_vae) | {"odd": torch.zeros(1)}))
    with pytest.raises(ValueError, match="not a whole TAESD"):
        load_vae(weights_file({"taesd_decoder.1.weight": torch.zeros(64, 16, 3, 3)}))


@pytest.mark.parametrize("content", ["{", "[]", "3", '{"_class_name": 3}', "\udcff"])
@pytest.mark.parametrize("load", [load_transformer, load_vae])
def test_a_config_that_is_none_is_one_sentence(load, tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="config.json does not hold a whole|config.json in it") as error:
        load(tmp_path)
    ours(error)


def ours(error):
    """One sentence of this package, which the command line shows as it is."""
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert error.traceback[-1].frame.f_globals["__name__"].startswith("dinotile.")


FLUX_CHANGES = [
    {"num_layers": 3},
    {"num_layers": "many"},
    {"num_layers": 10**9},
    {"num_single_layers": 5000},
    {"num_single_layers": 1},  # fewer than there are tensors for
    {"num_layers": -1},
    {"attention_head_dim": None},
    {"attention_head_dim": 10**400},
    {"joint_attention_dim": 2**40},
    {"patch_size": 10**9},
    {"axes_dims_rope": [1] * 100_000},
    {"inner": {"inner": [2**70]}},
]


@pytest.mark.parametrize("change", FLUX_CHANGES, ids=lambda change: str(change)[:40])
def test_a_folder_whose_config_asks_for_another_model_is_refused(flux, tmp_path, change):
    flux.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match="does not hold a whole model") as error:
        load_transformer(tmp_path)
    ours(error)


VAE_CHANGES = [
    {"block_out_channels": [32] * 5},
    {"latent_channels": "x"},
    {"norm_num_groups": 0},
    {"layers_per_block": 10**6},
    {name: ["x"] * 10**5 for name in ("block_out_channels", "down_block_types", "up_block_types")},
    {"_class_name": "AutoencoderTiny", "num_encoder_blocks": [10**5] * 4},
]


@pytest.mark.parametrize("change", VAE_CHANGES, ids=lambda change: str(change)[:40])
def test_a_vae_folder_whose_config_asks_for_another_model_is_refused(tmp_path, change):
    tiny_kl().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match="does not hold a whole model") as error:
        load_vae(tmp_path)
    ours(error)


@pytest.mark.parametrize("load", [load_transformer, read_geometry])
def test_a_config_with_absurd_counts_takes_no_time(load, flux, tmp_path):
    flux.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 100_000}))
    begin = time.process_time()
    with pytest.raises(ValueError, match=r"config.json asks for 100,00. layers, (it has|at most)"):
        load(tmp_path)
    assert time.process_time() - begin < 1


def test_a_text_encoder_with_absurd_counts_takes_no_time(tmp_path):
    pipeline = save_text_pipeline(tmp_path)
    for part, key in (("text_encoder_2", "num_layers"), ("text_encoder", "num_hidden_layers")):
        place = pipeline / part / "config.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | {key: 10**5}))
        with pytest.raises(ValueError, match=f"{part} does not hold a whole model .*asks for 100,00. layers"):
            load_text_encoder(pipeline, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("kind", ["flux", "kl", "tiny"])
@pytest.mark.parametrize("layout", ["folder", "file"])
def test_integers_are_not_taken_for_weights(kind, layout, flux, taesd_vae, tmp_path, weights_file):
    model, load = {"flux": (flux, load_transformer), "kl": (tiny_kl(), load_vae), "tiny": (taesd_vae, load_vae)}[kind]
    name, tensor = next((name, tensor) for name, tensor in model.state_dict().items() if tensor.ndim > 1)
    if layout == "folder":
        model.save_pretrained(tmp_path)
    weights = model.state_dict() | {name: (100 * tensor).to(torch.int8)}
    source = weights_file(weights, "diffusion_pytorch_model.safetensors")
    with pytest.raises(
        ValueError, match=f"holds {name} as (I8|torch.int8), needed are floating point weights"
    ) as error:
        load(tmp_path if layout == "folder" else source)
    ours(error)


@pytest.mark.parametrize("shape", [(), (128,), (0, 64), (128, 64, 1, 1)])
@pytest.mark.parametrize(
    "name",
    ["x_embedder.weight", "transformer_blocks.0.attn.norm_q.weight", "proj_out.weight", "norm_out.linear.weight"],
)
def test_flux_tensors_of_wrong_rank_are_one_sentence(flux, weights_file, name, shape):
    if flux.state_dict()[name].shape == shape:
        return
    with pytest.raises(ValueError, match="does not hold a whole|attention heads 0 wide") as error:
        load_transformer(weights_file(flux.state_dict() | {name: torch.zeros(shape)}))
    ours(error)


@pytest.mark.parametrize("shape", [(), (64,), (64, 16)])
@pytest.mark.parametrize("name", ["taesd_decoder.1.weight", "taesd_encoder.0.weight"])
def test_taesd_tensors_of_wrong_rank_are_one_sentence(taesd_vae, weights_file, name, shape):
    with pytest.raises(ValueError, match="not .* whole TAESD") as error:
        load_vae(weights_file(taesd(taesd_vae) | {name: torch.zeros(shape)}))
    ours(error)


@pytest.mark.parametrize("scale", [torch.ones(2), torch.zeros(1)])
def test_a_taesd_needs_one_scale(taesd_vae, weights_file, scale):
    with pytest.raises(ValueError, match="not hold a whole TAESD") as error:
        load_vae(weights_file(taesd(taesd_vae) | {"vae_scale": scale}))
    ours(error)


@pytest.mark.parametrize("shape", [(), (32,), (33, 3, 3, 3)])
@pytest.mark.parametrize(
    "name", ["encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight", "encoder.norm_out.bias"]
)
def test_kl_tensors_of_wrong_rank_are_one_sentence(weights_file, name, shape):
    weights = original_kl(tiny_kl())
    if weights[name].shape == shape:
        return
    with pytest.raises(ValueError, match="does not hold a whole") as error:
        load_vae(weights_file(weights | {name: torch.zeros(shape)}))
    ours(error)


def test_a_hub_name_of_a_dino_is_its_model_file(tmp_path, monkeypatch):
    """From the hub's cache, as an earlier run left it."""
    cached = tmp_path / "models--owner--name"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc" / "model.safetensors").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert dino_path("owner/name") == cached / "snapshots" / "abc" / "model.safetensors"
    assert dino_path(tmp_path) == tmp_path
