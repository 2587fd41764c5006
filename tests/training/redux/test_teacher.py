"""FLUX.1 Redux as the teacher: its tokens, and the files that it is recognised from."""

import json

import pytest
import torch
from safetensors.torch import save_file

from dinotile.files.pixels import resize
from dinotile.hosts.diffusers.redux import _siglip_config, load_teacher

from ...near import assert_near
from ...tiny import picture, redux_model, siglip_model

CONTEXT = 32  # of tiny_flux


def test_the_teacher_gives_the_tokens_of_the_original_classes(models, teacher):
    pixels = picture(60, 90)
    inputs = 2 * resize(pixels, height=50, width=50) - 1
    hidden = siglip_model()(pixel_values=inputs).last_hidden_state  # [1, 36, 48]
    wanted = redux_model()(hidden).image_embeds
    found = teacher.tokens(pixels)
    assert (teacher.side, teacher.grid, teacher.width) == (50, 6, CONTEXT)
    assert found.shape == (1, 6, 6, CONTEXT)
    assert torch.allclose(found.flatten(1, 2), wanted, atol=1e-5)


def test_files_of_other_layouts_give_the_same_teacher(models, teacher, tmp_path):
    """Redux's single file; SigLIP within a whole model, as google publishes it."""
    state = {name: tensor.clone() for name, tensor in siglip_model().state_dict().items()}
    state = {f"vision_model.{name.removeprefix('vision_model.')}": tensor for name, tensor in state.items()}
    save_file({**state, "text_model.x": torch.zeros(1), "logit_scale": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = json.loads((models / "image_encoder/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": config}))
    save_file(redux_model().state_dict(), tmp_path / "flux1-redux-dev.safetensors")
    other = load_teacher(tmp_path, tmp_path / "flux1-redux-dev.safetensors")
    pixels = picture(60, 90)
    assert_near(other.tokens(pixels), teacher.tokens(pixels))


def test_flux_1_redux_itself_is_recognised_from_its_tensors(tmp_path):
    shapes = {
        "embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        "embeddings.position_embedding.weight": (729, 1152),
        **{f"encoder.layers.{n}.mlp.fc1.weight": (4304, 1152) for n in range(27)},
    }
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert _siglip_config(state, tmp_path / "sigclip_vision_patch14_384.safetensors") == {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 384,
    }


@pytest.mark.parametrize(
    ("siglip", "redux", "said"),
    [
        ({"vision_model.embeddings.class_embedding": (4,)}, {}, "siglip.safetensors is no SigLIP vision model"),
        ({}, {"redux_up.weight": (8, 48)}, "redux.safetensors is no FLUX.1 Redux model .*redux_down.bias"),
        ({}, redux_model(inputs=40), "takes tokens 40 wide, SigLIP siglip.safetensors gives 48"),
        (
            {**siglip_model().state_dict(), "embeddings.position_embedding.weight": torch.zeros(16, 48)},
            {},
            "siglip.safetensors does not hold a whole SigLIP",
        ),
        (
            {**siglip_model().state_dict(), "encoder.layers.9999999.mlp.fc1.weight": torch.zeros(4)},
            {},
            "siglip.safetensors does not hold a whole SigLIP .*do not fit",
        ),
        ({**siglip_model().state_dict(), "post_layernorm.weight": torch.ones(48).int()}, {}, "as torch.int32"),
        ({}, {name: tensor.int() for name, tensor in redux_model().state_dict().items()}, "as torch.int32"),
    ],
)
def test_other_files_are_refused(tmp_path, siglip, redux, said):
    for name, content, default in (("siglip", siglip, siglip_model()), ("redux", redux, redux_model())):
        state = getattr(content or default, "state_dict", lambda content=content: content)()
        tensors = {k: torch.zeros(v) if isinstance(v, tuple) else v.contiguous() for k, v in state.items()}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    siglip_model().config.to_json_file(tmp_path / "config.json")
    with pytest.raises(ValueError, match=said):
        load_teacher(tmp_path / "siglip.safetensors", tmp_path / "redux.safetensors")


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds none of image_encoder/model.safetensors"):
        load_teacher(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_size": 10**6}, "1000000 px"),
        ({"num_attention_heads": 10**400}, "whole SigLIP"),
        ({"num_attention_heads": float("inf")}, "whole SigLIP"),
        ({"hidden_act": 3}, "whole SigLIP"),
        ({"layer_norm_eps": "x"}, "whole SigLIP"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_the_tensors_is_refused(models, tmp_path, change, said):
    content = (models / "image_encoder/model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content)
    config = json.loads((models / "image_encoder/config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"model.safetensors does not hold a whole SigLIP .*{said}|{said}"):
        load_teacher(tmp_path, models)
