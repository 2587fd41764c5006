"""What is computed of a picture as files: DINO's features or text as .npy, and a small .json that says whose they are."""

from __future__ import annotations

import json
import math
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...dino.feature_map import Scales, encoded_how
from ..core.config import Settings

TEXT_ARRAYS = {"flux1": ("t5.npy", "clip.npy"), "flux2": ("flux2.npy",)}  # by family of models
TEXT_INFO, TEXT_MASK = {"flux1": "text.json", "flux2": "flux2.json"}, "t5_mask.npy"
TEXT_FILES: tuple[str, ...] = (
    *TEXT_INFO.values(),
    *sum(TEXT_ARRAYS.values(), ()),
)  # arrays without an info are the data's own

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}  # 3: for names


class Info(Settings):
    """What decides the arrays; ``model_validate_json`` is a ValueError for other files."""

    def pack(self) -> bytes:
        return (json.dumps(self.model_dump(), sort_keys=True) + "\n").encode()


class FeatureInfo(Info):
    """encoder: fingerprint of its weights. picture: fingerprint of the picture file. side, crops, scales: of
    ``EncodeSettings``. degraded: how the picture was degraded first, empty for not at all. flat: fingerprint of the FlatDINO
    that compressed the patches, empty for none."""

    spec: str
    layers: str
    encoder: str
    picture: str
    image_size: tuple[int, int]
    side: int = 0
    crops: int = 1
    degraded: dict[str, Any] = {}
    scales: Scales = "averaged"
    flat: str = ""

    def pack(self) -> bytes:
        told = self.model_dump(exclude=set() if self.flat else {"flat"})
        return (json.dumps(told, sort_keys=True) + "\n").encode()

    @property
    def how(self) -> str:
        return encoded_how(self.layers, self.crops, self.scales)


class TextInfo(Info):
    """caption: fingerprint of the caption's file. encoder: of the text encoders' weights. masked: whether there is a mask."""

    caption: str
    encoder: str
    tokens: int
    masked: bool = False

    def pack(self) -> bytes:
        return (json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True) + "\n").encode()


def feature_files(family: str) -> tuple[str, str, str]:
    """Endings of the patches', the CLS token's and the info's file of dinov2 or dinov3."""
    return f"{family}_patches.npy", f"{family}_cls.npy", f"{family}.json"


def compressed_files(family: str) -> tuple[str, str, str]:
    """The same where a FlatDINO compressed the patches."""
    return f"{family}_flat.npy", *feature_files(family)[1:]


def plain_cls(family: str) -> str:
    """Ending of the CLS token's file of another maker."""
    return f"{family}.npy"


def pack(patches: Tensor, cls: Tensor, info: FeatureInfo, *, family: str) -> dict[str, bytes]:
    """The files by ending, in the order in which to write them: the json last, so that it vouches for the others.

    patches: [h, w, D], or what a FlatDINO made of them. cls: [D].
    """
    names = compressed_files(family) if info.flat else feature_files(family)
    return dict(zip(names, (to_npy(patches), to_npy(cls), info.pack()), strict=True))


def read_npy(content: bytes, *, axes: tuple[int, ...]) -> Tensor:
    """A float32 tensor with so many axes, or so many; raises for anything else, such as pickles and infinity.

    What the header claims is compared with the content before memory is taken for it.
    """
    file = BytesIO(content)
    shape, turned, kind = HEADERS[np.lib.format.read_magic(file)](file)
    if kind.kind not in "biuf" or math.prod(shape) * kind.itemsize != len(content) - file.tell():
        raise ValueError(f"an array claims shape {shape} of {kind}, and {len(content) - file.tell()} bytes follow")
    array = np.frombuffer(content, kind, offset=file.tell()).reshape(shape, order="F" if turned else "C")
    tensor = torch.from_numpy(array.astype(np.float32, order="C"))
    if tensor.ndim not in axes or 0 in tensor.shape or not bool(tensor.isfinite().all()):
        raise ValueError(f"an array has shape {list(tensor.shape)}, needed are {axes} axes of finite numbers")
    return tensor


def to_npy(tensor: Tensor) -> bytes:
    """A .npy file's content: bytes as they are, numbers in half precision."""
    content = BytesIO()
    kept = tensor if tensor.dtype == torch.uint8 else tensor.half()
    np.save(content, kept.cpu().numpy(), allow_pickle=False)
    return content.getvalue()
