import json
import pickle

import pytest
import torch
from safetensors.torch import load_file

from dinotile.hosts.diffusers.text import has_text_encoders, load_text_encoder

from ...near import assert_near
from ...tiny_text import save_text_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_text_pipeline(tmp_path_factory.mktemp("pipeline"))


def test_a_prompt_goes_through_the_pipelines_own_encoders(pipeline):
    assert has_text_encoders(pipeline)
    texts = [
        load_text_encoder(pipeline, device="cpu", dtype=torch.float32).encode(prompt, tokens=12)
        for prompt in ("a cat", "a cat", "a dog", "")
    ]
    assert texts[0].context.shape == (1, 12, 32) and texts[0].pooled.shape == (1, 16)
    assert_near(texts[0].context, texts[1].context)
    assert_near(texts[0].pooled, texts[1].pooled)
    for other in texts[2:]:
        assert not torch.allclose(texts[0].context, other.context)
        assert not torch.allclose(texts[0].pooled, other.pooled)


def test_a_mask_leaves_out_the_padding(pipeline):
    encoder = load_text_encoder(pipeline, device="cpu", dtype=torch.float32)
    for prompt in ("cat", "", "a very long caption"):
        text = encoder.encode(prompt, tokens=12, masked=True)
        letters = len(encoder.pipeline.tokenizer_2(prompt, max_length=12, truncation=True).input_ids)
        assert text.mask.tolist() == [[True] * letters + [False] * (12 - letters)]
    assert encoder.encode("cat", tokens=12).mask is None


def test_text_encoders_are_looked_for_in_folders_only(tmp_path):
    assert not has_text_encoders(tmp_path)
    assert has_text_encoders("black-forest-labs/FLUX.1-schnell")


def test_an_encoder_that_stays_loaded_encodes_every_prompt_alike(pipeline):
    encoder = load_text_encoder(pipeline, device="cpu", dtype=torch.float32)
    assert encoder.widths == (32, 16)
    for prompt, tokens in (("a cat", 12), ("a dog", 5), ("a cat", 12)):
        wanted = load_text_encoder(pipeline, device="cpu", dtype=torch.float32).encode(prompt, tokens=tokens)
        found = encoder.encode(prompt, tokens=tokens)
        assert_near(found.context, wanted.context)
        assert_near(found.pooled, wanted.pooled)
        assert found.context.shape == (1, tokens, 32) and not found.context.requires_grad


def test_a_model_without_text_encoders_is_refused(tmp_path):
    with pytest.raises(ValueError, match="brings no text encoders, needed are text_encoder, .*whole FLUX pipeline"):
        load_text_encoder(tmp_path, device="cpu", dtype=torch.float32)


def test_damaged_text_encoders_are_one_sentence(tmp_path):
    damaged = save_text_pipeline(tmp_path)
    (damaged / "text_encoder_2/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="does not hold a whole model"):
        load_text_encoder(damaged, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    "change", [{"num_heads": "x"}, {"d_ff": None}, {"layer_norm_epsilon": "x"}, {"d_model": 10**400}]
)
def test_a_text_encoder_whose_config_is_odd_is_one_sentence(tmp_path, change):
    pipeline = save_text_pipeline(tmp_path)
    place = pipeline / "text_encoder_2/config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(ValueError, match="does not hold a whole model") as error:
        load_text_encoder(pipeline, device="cpu", dtype=torch.float32)
    assert error.traceback[-1].frame.f_globals["__name__"].startswith("dinotile.") and str(error.value).isprintable()


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_text_encoders_are_read_from_safetensors_only(tmp_path):
    pipeline = save_text_pipeline(tmp_path)
    weights = pipeline / "text_encoder_2/model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(ValueError, match="does not hold a whole model .*safetensors"):
        load_text_encoder(pipeline, device="cpu", dtype=torch.float32)
    weights.with_name("pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(ValueError, match="does not hold a whole model"):
        load_text_encoder(pipeline, device="cpu", dtype=torch.float32)
    assert not (tmp_path / "sprung").exists()
