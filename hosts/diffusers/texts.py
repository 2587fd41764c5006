"""The encoded prompts of a long job: as many at a time as a bounded memory holds, none of them on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch

from ...files.errors import printable
from ..host import Text
from .offload import Turns
from .sources import Source
from .text import load_text_encoder

ROOM = 2**30  # bytes: some 250 prompts of FLUX.1's 512 tokens in 16 bits
CPU = torch.device("cpu")
Encode = Callable[[str], Text]


def load_encode(source: Source, *, tokens: int, masked: bool, **encoder: object) -> Encode:
    """A pipeline's ``encode`` of a prompt into the CPU's memory; its encoders go with it. encoder: of ``load_text_encoder``."""
    loaded = load_text_encoder(source, **encoder)  # type: ignore[arg-type]
    return lambda prompt: loaded.encode(prompt, tokens=tokens, masked=masked).to(CPU)


class Texts:
    """The texts of prompts that are asked for about in the order in which they were given: those that lie in memory, and behind
    the last of them the encoders are loaded once more. load: gives ``Encode``. room: bytes that are filled at a time."""

    def __init__(self, prompts: Iterable[str], load: Callable[[], Encode], *, room: int = ROOM) -> None:
        self.places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        self.load, self.room = load, room
        self.known: dict[str, Text] = {}

    def begin(self, *others: str) -> list[Text]:
        """The texts of further prompts, with which the first of these are encoded."""
        encode = self.load()
        found = {prompt: encode(prompt) for prompt in dict.fromkeys(others)}
        self._fill(0, encode)
        return [found[prompt] for prompt in others]

    def of(self, prompt: str, turns: Turns) -> Text:
        """turns: of the models that make room, where the encoders need more than there is. ValueError for another prompt."""
        if prompt not in self.places:
            raise ValueError(
                f"prompt {printable(prompt)} is none of those that the models were loaded with: name it in prompts of "
                "load_upscaler"
            )
        if prompt not in self.known:
            turns.apart(partial(self._fill, self.places[prompt]), stage="text")
        return self.known[prompt]

    def _fill(self, first: int, encode: Encode | None = None) -> None:
        """Encode the prompts from a place on, until they fill the room, in place of those that were there."""
        self.known, taken = {}, 0
        encode = encode or self.load()
        for prompt in list(self.places)[first:]:
            if taken >= self.room:
                break
            self.known[prompt] = text = encode(prompt)
            taken += text.nbytes
