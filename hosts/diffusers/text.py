"""Prompts through FLUX's own text encoders, by diffusers' pipelines: CLIP and T5 of FLUX.1, the language model of FLUX.2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..host import Text
from .configs import check_folder
from .offload import Offload, spread
from .processor import load_processor
from .sources import loading, local_path

if TYPE_CHECKING:
    from diffusers import FluxPipeline

PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
PARTS_OF_FLUX2 = ("text_encoder", "tokenizer")
FLUX2_PIPELINES = {  # and the layers of their language model whose outputs are side by side in a token
    "Flux2Pipeline": (10, 20, 30),
    "Flux2KleinPipeline": (9, 18, 27),
}


class TextEncoder:
    """A pipeline's CLIP and T5 on their device, for any number of prompts."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        self.pipeline = pipeline

    @property
    def widths(self) -> tuple[int, int]:
        """Of a T5 token and of CLIP's pooled vector: 4096 and 768 for FLUX.1."""
        encoders: Any = (self.pipeline.text_encoder_2, self.pipeline.text_encoder)
        t5, clip = (encoder.config.hidden_size for encoder in encoders)
        return t5, clip

    @torch.no_grad()
    def encode(self, prompt: str, *, tokens: int, masked: bool = False) -> Text:
        """One prompt, which may be empty, as so many T5 tokens and CLIP's pooled vector. masked: with a mask of the padding."""
        encoded: Any = self.pipeline.encode_prompt(prompt, max_sequence_length=tokens)
        mask = None
        if masked:
            tokenizer: Any = self.pipeline.tokenizer_2
            told = tokenizer(prompt, padding="max_length", max_length=tokens, truncation=True, return_tensors="pt")
            mask = told.attention_mask.bool()  # [1, tokens]
        return Text(encoded[0], encoded[1], mask=mask)


class Flux2TextEncoder:
    """A FLUX.2 pipeline's language model on its device: Qwen3 of klein, Mistral of dev. layers: of its outputs."""

    def __init__(self, pipeline: Any, layers: tuple[int, ...]) -> None:
        self.pipeline, self.layers = pipeline, layers

    @property
    def widths(self) -> tuple[int, int]:
        """Of a text token, and 0 for the pooled vector that FLUX.2 has not."""
        return len(self.layers) * self.pipeline.text_encoder.config.get_text_config().hidden_size, 0

    @torch.no_grad()
    def encode(self, prompt: str, *, tokens: int, masked: bool = False) -> Text:
        """One prompt, which may be empty, as so many tokens. masked: not to be had, FLUX.2 attends to its padding."""
        if masked:
            raise ValueError("mask_padding leaves out the padding of FLUX.1's T5, and this is FLUX.2: leave it out")
        context, _ = self.pipeline.encode_prompt(
            prompt, max_sequence_length=tokens, text_encoder_out_layers=self.layers
        )
        return Text(context, context.new_zeros(1, 0))


def _pipeline_of(source: str | Path) -> str:
    """The class that a folder or hub name is a pipeline of; "" where nothing says it."""
    from diffusers import DiffusionPipeline

    path = local_path(source)
    if path is not None and not (path / "model_index.json").is_file():
        return ""
    with loading(source):
        config: Any = DiffusionPipeline.load_config(str(path or source))
    return str(config.get("_class_name", ""))


def has_text_encoders(source: str | Path) -> bool:
    """Whether ``source`` is a whole pipeline: a hub name, or a folder with FLUX's text encoders and their tokenizers."""
    path = local_path(source)
    if path is None or all((path / part).is_dir() for part in PARTS):
        return True
    parts = all((path / part).is_dir() for part in PARTS_OF_FLUX2)
    return parts and _pipeline_of(source) in FLUX2_PIPELINES


def _check_depth(source: str | Path, layers: tuple[int, ...]) -> None:
    from transformers import AutoConfig

    with loading(source):
        config = AutoConfig.from_pretrained(str(source), subfolder="text_encoder")
    depth = config.get_text_config().num_hidden_layers
    if depth < max(layers):
        raise ValueError(
            f"the language model of {source} has {depth} layers, and FLUX.2 reads its layers {', '.join(map(str, layers))}: "
            "give the whole pipeline of a FLUX.2 model"
        )


def load_text_encoder(
    source: str | Path, *, device: torch.device | str, dtype: torch.dtype, offload: Offload = "none"
) -> TextEncoder | Flux2TextEncoder:
    """The text encoders of a whole pipeline, a folder or a hub name, without its other models; ValueError where it has none.

    offload: "sequential" keeps their weights off the device; the others put them there, where nothing else need be.
    """
    import diffusers

    if not has_text_encoders(source):
        raise ValueError(
            f"{source} brings no text encoders, needed are {', '.join(PARTS)} of FLUX.1 or {', '.join(PARTS_OF_FLUX2)} of "
            "FLUX.2: give a whole FLUX pipeline"
        )
    name = _pipeline_of(source)
    second = name in FLUX2_PIPELINES
    encoders = [part for part in (PARTS_OF_FLUX2 if second else PARTS) if part.startswith("text_encoder")]
    path = local_path(source)
    if path is not None:
        for part in encoders:
            check_folder(path / part, floating=False)
    processor = load_processor(source) if name == "Flux2Pipeline" else None
    if second:
        _check_depth(source, FLUX2_PIPELINES[name])
    left_out = {"transformer": None, "vae": None} | ({"tokenizer": None} if processor else {})
    with loading(source):
        pipeline: Any = getattr(diffusers, name if second else "FluxPipeline").from_pretrained(
            str(source), **left_out, dtype=dtype, use_safetensors=True
        )
    if processor:
        pipeline.tokenizer = processor
    if offload != "sequential":
        pipeline = pipeline.to(device)
    else:
        for part in encoders:
            spread(getattr(pipeline, part), torch.device(device))
    return Flux2TextEncoder(pipeline, FLUX2_PIPELINES[name]) if second else TextEncoder(pipeline)
