"""Captions through FLUX's text encoders, as T5 tokens and CLIP's vector."""

from __future__ import annotations

from functools import cached_property

from ...files.fingerprints import fingerprint, fingerprint_of, first_numbers
from ...flux_patch.families import FLUX1
from ...hosts.diffusers.text import Flux2TextEncoder, TextEncoder
from .sample import Unusable
from .side_files import TEXT_ARRAYS, TEXT_INFO, TEXT_MASK, TextInfo, to_npy
from .sources import Entry

WIDTHS = (FLUX1.text_widths[0], FLUX1.pooled_width)  # of T5's tokens and CLIP's vector
MOST_TOKENS = 512


class TextRecipe:
    """Makes t5.npy [tokens, 4096] and clip.npy [768] from a sample's caption, its txt in UTF-8; and t5_mask.npy [tokens], 0
    for padding, where it is ``masked``.

    Raises ValueError for encoders that are not FLUX.1's and for a wrong number of tokens.
    """

    name = "text"
    replaced: tuple[str, ...] = ()

    def __init__(self, encoder: TextEncoder | Flux2TextEncoder, *, tokens: int = 256, masked: bool = False) -> None:
        if not isinstance(encoder, TextEncoder) or encoder.widths != WIDTHS:
            raise ValueError(
                f"the text encoders are {encoder.widths[0]} (T5) and {encoder.widths[1]} (CLIP) wide, FLUX.1 takes "
                f"{WIDTHS[0]} and {WIDTHS[1]}: give a FLUX.1 pipeline"
            )
        if not 1 <= tokens <= MOST_TOKENS:
            raise ValueError(
                f"{tokens} text tokens are asked for, T5 gives 1 to {MOST_TOKENS}: take 256, or 512 for dev"
            )
        self.encoder = encoder
        self.tokens, self.masked = tokens, masked
        self.files = (TEXT_INFO, *([TEXT_MASK] if masked else []), *TEXT_ARRAYS)

    def make(self, entry: Entry) -> dict[str, bytes] | None:
        """The files to write by ending, None where they are there. Arrays that the data brought stay as they are."""
        members = entry.members
        there = {ending for ending in TEXT_ARRAYS if ending in members}
        whole, ours = len(there) == len(TEXT_ARRAYS), TEXT_INFO in members
        if whole and not (ours and "txt" in members):
            return None
        if "txt" not in members:
            raise Unusable("without a caption")
        content = members["txt"].read()
        info = TextInfo(
            caption=fingerprint(content), encoder=self.fingerprint, tokens=self.tokens, masked=self.masked
        ).pack()
        if all(ending in members for ending in self.files) and members[TEXT_INFO].read() == info:
            return None
        text = self.encoder.encode(_caption(content), tokens=self.tokens, masked=self.masked)
        arrays = {"t5.npy": to_npy(text.context[0]), "clip.npy": to_npy(text.pooled[0])}  # [tokens, 4096], [768]
        if there and not ours:
            return {ending: array for ending, array in arrays.items() if ending not in there}
        mask = {} if text.mask is None else {TEXT_MASK: to_npy(text.mask[0])}  # [tokens]
        return {TEXT_INFO: info, **mask, **arrays}

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the encoders' weights, from the first numbers of every tensor: T5 has 10 GB."""
        parts = (self.encoder.pipeline.text_encoder, self.encoder.pipeline.text_encoder_2)
        tensors = (tensor for part in parts for tensor in part.state_dict().values())
        return fingerprint_of(map(first_numbers, tensors))


def _caption(content: bytes) -> str:
    try:
        caption = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise Unusable("with a caption that is not UTF-8") from None
    if not caption:
        raise Unusable("with an empty caption")
    return caption
