"""The encoded prompts of a long job: as many at a time as a bounded memory holds, none of them on the device."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

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
    """The texts of prompts that are asked for about in the order in which they were given, with repeats. Those that come next
    lie in memory, and behind the last of them the encoders are loaded once more; in another order that is only more often.

    load: gives ``Encode``. own: texts that stay. room: bytes of the others, which one more text may pass."""

    def __init__(
        self,
        prompts: Iterable[str],
        load: Callable[[], Encode],
        *,
        own: Mapping[str, Text] | None = None,
        room: int = ROOM,
    ) -> None:
        self.prompts, self.load, self.own, self.room = list(prompts), load, dict(own or {}), room
        self.places: dict[str, list[int]] = {}
        for place, prompt in enumerate(self.prompts):
            self.places.setdefault(prompt, []).append(place)
        self.place = 0  # of the prompt that was asked for last
        self.known: dict[str, Text] = {}

    @classmethod
    def given(cls, texts: Mapping[str, Text]) -> Texts:
        """Of prompts that somebody else encoded."""
        return cls((), _nobody, own=texts)

    def begin(self, *own: str) -> list[Text]:
        """The texts of further prompts, which stay, and with which the first of the others are encoded."""
        encode = self.load()
        self.own |= {prompt: encode(prompt) for prompt in dict.fromkeys(own)}
        self._fill(encode)
        return [self.own[prompt] for prompt in own]

    def of(self, prompt: str, turns: Turns) -> Text:
        """turns: of the models that make room, where the encoders need more than there is. ValueError for another prompt."""
        if prompt in self.own:
            return self.own[prompt]
        if prompt not in self.places:
            raise ValueError(
                f"prompt {printable(prompt)} is none of those that the models were loaded with: name it in prompts of "
                "load_upscaler, or give its text in texts of Upscaler"
            )
        places = self.places[prompt]
        self.place = places[bisect_left(places, self.place) % len(places)]  # the next one, or the first of all
        if prompt not in self.known:
            turns.apart(self._fill, stage="text")
        return self.known[prompt]

    def _fill(self, encode: Encode | None = None) -> None:
        """Encode what comes next and is not known, until all that comes next fills the room. Of what is known the last to come
        makes way first; that is nothing that the walk passed, as its texts alone leave room."""
        encode = encode or self.load()
        ahead = [prompt for prompt in dict.fromkeys(self.prompts[self.place :]) if prompt not in self.own]
        turn = {prompt: number for number, prompt in enumerate(ahead)}
        spare = sorted(self.known, key=lambda prompt: turn.get(prompt, len(ahead)))  # its end can be spared first
        walked, held = 0, sum(text.nbytes for text in self.known.values())
        for prompt in ahead:
            if walked >= self.room:
                break
            if prompt not in self.known:
                while held >= self.room:
                    held -= self.known.pop(spare.pop()).nbytes
                self.known[prompt] = encode(prompt)
                held += self.known[prompt].nbytes
            walked += self.known[prompt].nbytes


def _nobody() -> Encode:
    raise AssertionError("there is no other prompt")
