"""FLUX.2 dev's processor of pictures and text, as far as text goes, for which its tokenizer is enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .sources import loading

OLDER = "chat_template.json"  # where processors kept the template before chat_template.jinja


class ProcessorOfText:
    """A processor to diffusers' pipeline. The one in the folder also reads pictures, for which it wants torchvision."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(
        self, messages: list[Any], *, add_generation_prompt: bool, tokenize: bool, return_dict: bool, **options: Any
    ) -> Any:
        """Conversations as a dict of ``input_ids`` and ``attention_mask`` [B, tokens]. options: of the tokenizer.

        The tokenizer's own way never begins a text with bos_token; a processor does so where the template has not.
        """
        if not (tokenize and return_dict):
            raise TypeError("text comes as a dict of tokens only")
        texts = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        begins = self.tokenizer.bos_token
        begun = begins is not None and texts[0].startswith(begins)
        return self.tokenizer(texts, add_special_tokens=not begun, **options)


def load_processor(source: str | Path) -> ProcessorOfText:
    """Of a whole pipeline of FLUX.2 dev; ValueError where its tokenizer is not whole, or has no template of conversations."""
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import cached_file

    with loading(source):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(source), subfolder="tokenizer")
        older = cached_file(
            str(source),
            OLDER,
            subfolder="tokenizer",
            _raise_exceptions_for_missing_entries=False,
            local_files_only=False,
        )
        if tokenizer.chat_template is None and older is not None:
            tokenizer.chat_template = json.loads(Path(older).read_bytes())["chat_template"]
    if "padding_side" not in tokenizer.init_kwargs:
        tokenizer.padding_side = "left"  # as the model was trained
    if not isinstance(tokenizer.chat_template, str):
        raise ValueError(
            f"{source} brings no chat_template.jinja in its tokenizer, by which FLUX.2 dev's prompts are put: download it again"
        )
    return ProcessorOfText(tokenizer)
