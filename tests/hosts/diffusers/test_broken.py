"""Files and folders that hold no whole model, or another one: one sentence each, and no time lost."""

import json
import pickle
import time

import pytest
import torch

from dinotile.hosts.diffusers.load import load_transformer, load_vae, read_geometry
from dinotile.hosts.diffusers.text import load_text_encoder

from ...tiny import tiny_kl
from ...tiny_text import save_text_pipeline
from .vaes import original_kl, taesd
from .vaes import taesd_vae as taesd_vae


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
