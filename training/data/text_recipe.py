"""Captions through FLUX's text encoders: T5 tokens and CLIP's vector for FLUX.1, a language model's tokens for FLUX.2."""

from __future__ import annotations

from functools import cached_property

from ...files.fingerprints import fingerprint, fingerprint_of, first_numbers
from ...flux_patch.families import FLUX1, FLUX2, ModelFamily
from ...hosts.diffusers.text import Flux2TextEncoder, TextEncoder
from ...hosts.host import Text
from .sample import Unusable
from .side_files import TEXT_ARRAYS, TEXT_INFO, TEXT_MASK, TextInfo, to_npy
from .sources import Entry

WIDTHS = (FLUX1.text_widths[0], FLUX1.pooled_width)  # of T5's tokens and CLIP's vector
MOST_TOKENS = 512
USUAL_TOKENS = {FLUX1.name: 256, FLUX2.name: MOST_TOKENS}


class TextRecipe:
    """Makes, of a sample's caption, its txt in UTF-8, t5.npy [tokens, 4096] and clip.npy [768], or flux2.npy [tokens, C] with
    FLUX.2's language model; and t5_mask.npy [tokens], 0 for padding, where it is ``masked``.

    tokens: None for the usual ones. Raises ValueError for encoders of neither, for a mask of FLUX.2, which attends to its
    padding, and for a wrong number of tokens.
    """

    name = "text"
    replaced: tuple[str, ...] = ()

    def __init__(
        self, encoder: TextEncoder | Flux2TextEncoder, *, tokens: int | None = None, masked: bool = False
    ) -> None:
        self.family = _family(encoder)
        tokens = USUAL_TOKENS[self.family.name] if tokens is None else tokens
        if not 1 <= tokens <= MOST_TOKENS:
            raise ValueError(
                f"{tokens} text tokens are asked for, allowed are 1 to {MOST_TOKENS}: take 256, or 512 for dev and FLUX.2"
            )
        if masked and self.family is FLUX2:
            raise ValueError("mask_padding leaves out the padding of FLUX.1's T5, and this is FLUX.2: leave it out")
        self.encoder = encoder
        self.tokens, self.masked = tokens, masked
        self.arrays, self.info = TEXT_ARRAYS[self.family.name], TEXT_INFO[self.family.name]
        self.files = (self.info, *([TEXT_MASK] if masked else []), *self.arrays)

    def make(self, entry: Entry) -> dict[str, bytes] | None:
        """The files to write by ending, None where they are there. Arrays that the data brought stay as they are."""
        members = entry.members
        there = {ending for ending in self.arrays if ending in members}
        whole, ours = len(there) == len(self.arrays), self.info in members
        if whole and not (ours and "txt" in members):
            return None
        if "txt" not in members:
            raise Unusable("without a caption")
        content = members["txt"].read()
        info = TextInfo(
            caption=fingerprint(content), encoder=self.fingerprint, tokens=self.tokens, masked=self.masked
        ).pack()
        if all(ending in members for ending in self.files) and members[self.info].read() == info:
            return None
        text = self.encoder.encode(_caption(content), tokens=self.tokens, masked=self.masked)
        arrays = dict(zip(self.arrays, self._rows(text), strict=True))
        if there and not ours:
            return {ending: array for ending, array in arrays.items() if ending not in there}
        mask = {} if text.mask is None else {TEXT_MASK: to_npy(text.mask[0])}  # [tokens]
        return {self.info: info, **mask, **arrays}

    def _rows(self, text: Text) -> tuple[bytes, ...]:
        """Tokens [tokens, C], and FLUX.1's vector [768]."""
        context = to_npy(text.context[0])
        return (context,) if self.family is FLUX2 else (context, to_npy(text.pooled[0]))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the encoders' weights, from the first numbers of every tensor: T5 has 10 GB."""
        parts = (self.encoder.pipeline.text_encoder, getattr(self.encoder.pipeline, "text_encoder_2", None))
        tensors = (tensor for part in parts if part is not None for tensor in part.state_dict().values())
        return fingerprint_of(map(first_numbers, tensors))


def _family(encoder: TextEncoder | Flux2TextEncoder) -> ModelFamily:
    """Whose text an encoder makes; ValueError for one that is as wide as none's."""
    width, pooled = encoder.widths
    if isinstance(encoder, Flux2TextEncoder):
        if width not in FLUX2.text_widths:
            raise ValueError(
                f"the language model gives tokens {width} wide, FLUX.2's models take "
                f"{', '.join(map(str, FLUX2.text_widths))}: give a FLUX.2 pipeline"
            )
        return FLUX2
    if (width, pooled) != WIDTHS:
        raise ValueError(
            f"the text encoders are {width} (T5) and {pooled} (CLIP) wide, FLUX.1 takes {WIDTHS[0]} and {WIDTHS[1]}: give a "
            "FLUX.1 pipeline"
        )
    return FLUX1


def _caption(content: bytes) -> str:
    try:
        caption = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise Unusable("with a caption that is not UTF-8") from None
    if not caption:
        raise Unusable("with an empty caption")
    return caption
