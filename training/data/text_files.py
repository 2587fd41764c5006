"""Encoded captions as files: T5's tokens and CLIP's vector as .npy, and a small .json that says whose they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ...files.fingerprints import fingerprint

ARRAYS = ("t5.npy", "clip.npy")
INFO = "text.json"
TEXT_FILES = (INFO, *ARRAYS)  # as they are written; arrays without an info are the data's own


@dataclass(frozen=True)
class TextInfo:
    """What decides the arrays. caption: fingerprint of the caption's file. encoder: of CLIP's and T5's weights."""

    caption: str
    encoder: str
    tokens: int

    def pack(self) -> bytes:
        return (json.dumps(asdict(self), sort_keys=True) + "\n").encode()


def read_text_info(content: bytes) -> TextInfo:
    """The json's content; ValueError where it is something else."""
    try:
        return TextInfo(**json.loads(content))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the text's json is not what `dinotile features` writes ({error}): run it again") from error


def is_of_caption(info: bytes, caption: bytes) -> bool:
    """Whether the arrays that the json vouches for were made from the caption's file; ValueError for a damaged json."""
    return read_text_info(info).caption == fingerprint(caption)
