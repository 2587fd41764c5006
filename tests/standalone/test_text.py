import json

import pytest
import torch

from dinotile.standalone.text import encode_text, has_text_encoders


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder as FluxPipeline.save_pretrained makes it, with tiny text encoders and letters as tokens."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        PreTrainedTokenizerFast,
        T5Config,
        T5EncoderModel,
    )

    folder = tmp_path_factory.mktemp("pipeline")
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    clip_files = folder / "clip"
    clip_files.mkdir()
    (clip_files / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (clip_files / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(clip_files / "vocab.json"), str(clip_files / "merges.txt"), model_max_length=77)
    words = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *letters])}, "<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    torch.manual_seed(0)
    clip = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    t5 = T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        transformer=None,
        text_encoder=CLIPTextModel(clip).eval(),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5).eval(),
        tokenizer_2=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
    ).save_pretrained(folder)
    return folder


def test_a_prompt_goes_through_the_pipelines_own_encoders(pipeline):
    assert has_text_encoders(pipeline)
    texts = [
        encode_text(pipeline, prompt=prompt, tokens=12, device="cpu", dtype=torch.float32)
        for prompt in ("a cat", "a cat", "a dog", "")
    ]
    assert texts[0].context.shape == (1, 12, 32) and texts[0].pooled.shape == (1, 16)
    assert torch.equal(texts[0].context, texts[1].context)
    for other in texts[2:]:
        assert not torch.allclose(texts[0].context, other.context)
        assert not torch.allclose(texts[0].pooled, other.pooled)


def test_text_encoders_are_looked_for_in_folders_only(tmp_path):
    assert not has_text_encoders(tmp_path)
    assert has_text_encoders("black-forest-labs/FLUX.1-schnell")
