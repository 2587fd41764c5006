import json

import pytest
import torch
from safetensors.torch import save_file

from dinotile import demo
from dinotile.flux_patch.geometry import geometry_of
from dinotile.hosts.diffusers.load import load_transformer, read_geometry

from ...tiny import tiny_flux, tiny_vae


@pytest.mark.parametrize("inner", ["", "transformer", "transformer/diffusion_pytorch_model.safetensors"])
def test_the_geometry_is_read_without_the_weights(tmp_path, inner):
    tiny_flux().save_pretrained(tmp_path / "transformer")
    assert read_geometry(tmp_path / inner) == geometry_of(tiny_flux())


def test_the_geometry_of_an_all_in_one_checkpoint_is_its_fluxs(tmp_path):
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in tiny_flux().state_dict().items()}
    save_file({**state, "vae.x": torch.zeros(1)}, tmp_path / "all.safetensors")
    assert read_geometry(tmp_path / "all.safetensors") == geometry_of(tiny_flux())


def test_another_models_folder_has_no_flux_geometry(tmp_path):
    tiny_vae().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds an AutoencoderTiny, needed is a FLUX.1 or FLUX.2 transformer"):
        read_geometry(tmp_path)


def test_the_demo_flux_takes_reduxs_width():
    assert read_geometry(demo.FLUX) == geometry_of(load_transformer(demo.FLUX))
    assert read_geometry(demo.FLUX).context == 4096


@pytest.mark.parametrize(
    ("kind", "name"), [("ZImageTransformer2DModel", "Z-Image"), ("Krea2Transformer2DModel", "Krea 2")]
)
def test_other_models_of_diffusers_are_refused_by_the_names_that_people_know(tmp_path, kind, name):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps({"_class_name": kind}))
    for load in (read_geometry, load_transformer):
        with pytest.raises(ValueError, match=f"holds {name}, needed is a FLUX.1 or FLUX.2 .* the nodes in ComfyUI"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        ("distilled_guidance_layer.in_proj.weight", "Chroma"),
        ("txtfusion.projector.weight", "Krea 2"),
        ("cap_embedder.0.weight", "Z-Image or Lumina 2"),
        ("transformer_blocks.0.img_mod.1.weight", "Qwen-Image"),
        ("model.diffusion_model.input_blocks.0.0.weight", "Stable Diffusion"),
    ],
)
def test_files_of_other_models_are_refused_by_their_names_too_and_not_for_what_they_lack_of_flux(
    tmp_path, tensor, name
):
    prefix = "model.diffusion_model." if tensor.startswith("model.") else ""
    state = {f"{prefix}img_in.weight": torch.zeros(8, 8), f"{prefix}x_embedder.weight": torch.zeros(8, 8)}
    save_file({**state, tensor: torch.zeros(1)}, tmp_path / "other.safetensors")
    for load in (read_geometry, load_transformer):
        with pytest.raises(ValueError, match=f"other.safetensors holds {name}, needed is a FLUX.1 or FLUX.2"):
            load(tmp_path / "other.safetensors")


def test_a_folder_of_a_text_encoder_is_no_transformer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["T5EncoderModel"]}))
    with pytest.raises(ValueError, match="holds no model of diffusers, needed is a FLUX.1 or FLUX.2 transformer"):
        read_geometry(tmp_path)
