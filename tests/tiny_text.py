"""Text halves of FLUX pipelines: CLIP and T5 of one layer, a thin Qwen3 or a thin Mistral 3, with their tokenizers."""

import json
from pathlib import Path
from typing import Any

import torch


def save_text_pipeline(folder: Path, *, t5_width: int = 32, clip_width: int = 16, seed: int = 0) -> Path:
    """A folder as FluxPipeline.save_pretrained makes it, with letters as tokens."""
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
    torch.manual_seed(seed)
    clip = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=clip_width,
        intermediate_size=32,
        projection_dim=clip_width,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    t5 = T5Config(vocab_size=30, d_model=t5_width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
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


def save_klein_text(folder: Path, *, width: int = 16, distilled: bool = True, seed: int = 0) -> Path:
    """A folder as Flux2KleinPipeline.save_pretrained makes it, with letters as tokens, and as many layers as are read."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    letters = [chr(code) for code in range(97, 123)]
    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate(["<pad>", "<unk>", *letters])}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=28,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
    )
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=None,
        text_encoder=Qwen3ForCausalLM(config).eval(),
        tokenizer=tokenizer,
        transformer=None,
        is_distilled=distilled,
    ).save_pretrained(folder)
    return folder


def save_dev_text(folder: Path, *, width: int = 16, layers: int = 30, begins: bool = True, seed: int = 0) -> Any:
    """A folder as Flux2Pipeline.save_pretrained makes it, with letters as tokens; returns the pipeline, which encodes itself.

    begins: whether the template of conversations begins with the first token. The processor here is one of pictures and text
    that needs no torchvision; the folder names the class that FLUX.2 dev's does.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        LlavaProcessor,
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        PixtralImageProcessorPil,
        PixtralVisionConfig,
        PreTrainedTokenizerFast,
    )

    tokens = ["<pad>", "<unk>", "<s>", "</s>", "[IMG]", *(chr(code) for code in range(97, 123))]
    words = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 2)])
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, padding_side="left", extra_special_tokens=["[IMG]"], **special
    )
    said = "{% for message in messages %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endfor %}"
    template = "{{ bos_token }}" * begins + said
    few = {"hidden_size": width, "intermediate_size": 32, "num_attention_heads": 2, "head_dim": 8}
    torch.manual_seed(seed)
    config = Mistral3Config(
        text_config=MistralConfig(
            vocab_size=len(tokens),
            num_hidden_layers=layers,
            num_key_value_heads=1,
            pad_token_id=0,
            rope_parameters={"rope_type": "default", "rope_theta": 10**9},
            **few,
        ),
        vision_config=PixtralVisionConfig(num_hidden_layers=1, image_size=28, patch_size=14, **few),
    )
    pipeline = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=None,
        text_encoder=Mistral3ForConditionalGeneration(config).eval(),
        tokenizer=LlavaProcessor(PixtralImageProcessorPil(), tokenizer, chat_template=template, image_token="[IMG]"),
        transformer=None,
    )
    pipeline.save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("LlavaProcessor", "PixtralProcessor"))
    return pipeline
