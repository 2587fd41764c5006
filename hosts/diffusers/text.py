"""Prompts through FLUX.1's own text encoders, CLIP and T5, with diffusers' FluxPipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..host import Text
from .configs import check_folder
from .offload import Offload, spread
from .sources import loading, local_path

if TYPE_CHECKING:
    from diffusers import FluxPipeline

PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


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


def has_text_encoders(source: str | Path) -> bool:
    """Whether ``source`` is a whole pipeline: a hub name, or a folder with CLIP and T5 and their tokenizers."""
    path = local_path(source)
    return path is None or all((path / part).is_dir() for part in PARTS)


def load_text_encoder(
    source: str | Path, *, device: torch.device | str, dtype: torch.dtype, offload: Offload = "none"
) -> TextEncoder:
    """CLIP and T5 of a whole pipeline, a folder or a hub name, without its other models; ValueError where it has none.

    offload: "sequential" keeps their weights off the device; the others put both there, where nothing else need be.
    """
    from diffusers import FluxPipeline

    if not has_text_encoders(source):
        raise ValueError(
            f"{source} brings no text encoders, needed are {', '.join(PARTS)}: give a whole FLUX.1 pipeline"
        )
    path = local_path(source)
    if path is not None:
        for part in PARTS[:2]:
            check_folder(path / part, floating=False)
    with loading(source):
        pipeline = FluxPipeline.from_pretrained(
            str(source), transformer=None, vae=None, dtype=dtype, use_safetensors=True
        )
    if offload != "sequential":
        return TextEncoder(pipeline.to(device))
    for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
        spread(encoder, torch.device(device))
    return TextEncoder(pipeline)
