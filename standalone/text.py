"""A prompt through FLUX.1's own text encoders, CLIP and T5, with diffusers' FluxPipeline."""

# diffusers exports its classes lazily:
# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .flux import Text
from .load import loading, local_path

PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def has_text_encoders(source: str | Path) -> bool:
    """Whether ``source`` is a whole pipeline: a hub name, or a folder with CLIP and T5 and their tokenizers."""
    path = local_path(source)
    return path is None or all((path / part).is_dir() for part in PARTS)


def encode_text(
    source: str | Path, *, prompt: str, tokens: int, device: torch.device | str, dtype: torch.dtype
) -> Text:
    """Load a pipeline's text encoders, encode one prompt (may be empty) into ``tokens`` T5 tokens, and free them."""
    from diffusers import FluxPipeline

    with loading(source):
        pipeline = FluxPipeline.from_pretrained(str(source), transformer=None, vae=None, dtype=dtype)
    pipeline.to(device)
    with torch.no_grad():
        encoded: Any = pipeline.encode_prompt(prompt, device=torch.device(device), max_sequence_length=tokens)
    return Text(encoded[0], encoded[1])
