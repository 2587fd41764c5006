"""Precomputed DINO features as files: patches and CLS as .npy, and a small .json that says whose they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...dino.feature_map import FeatureMap


@dataclass(frozen=True)
class FeatureInfo:
    """What decides the features of a picture.

    encoder: fingerprint of its weights. picture: fingerprint of the picture file. side, crops: of ``EncodeSettings``.
    degraded: how the picture was degraded first, empty for not at all.
    """

    spec: str
    layers: str
    encoder: str
    picture: str
    image_size: tuple[int, int]
    side: int = 0
    crops: int = 1
    degraded: Mapping[str, Any] = field(default_factory=dict)


def feature_files(family: str) -> tuple[str, str, str]:
    """Endings of the patches', the CLS token's and the info's file of dinov2 or dinov3."""
    return f"{family}_patches.npy", f"{family}_cls.npy", f"{family}.json"


def pack(features: FeatureMap, info: FeatureInfo, *, family: str) -> dict[str, bytes]:
    """The files by ending, in the order in which to write them: the json last, so that it vouches for the others."""
    contents = (
        to_npy(features.patches[0]),  # [h, w, D]
        to_npy(features.cls[0]),  # [D]
        (json.dumps(asdict(info), sort_keys=True) + "\n").encode(),
    )
    return dict(zip(feature_files(family), contents, strict=True))


def read_info(content: bytes) -> FeatureInfo:
    """The json's content; ValueError where it is something else."""
    try:
        values = json.loads(content)
        return FeatureInfo(**{**values, "image_size": tuple(values["image_size"])})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the features' json is not what `dinotile features` writes ({error}): run it again"
        ) from error


def unpack(info: FeatureInfo, *, patches: bytes, cls: bytes) -> FeatureMap:
    """Features of one picture, float32; ValueError where the arrays are damaged or do not belong together."""
    grid, token = read_npy(patches, axes=3), read_npy(cls, axes=1)
    if grid.shape[2] != len(token):
        raise ValueError(
            f"patches are {grid.shape[2]} wide and CLS {len(token)}, both must be equal: compute them again"
        )
    return FeatureMap(grid[None], token[None], info.spec, info.layers, info.image_size)


def read_npy(content: bytes, *, axes: int) -> Tensor:
    """A float32 tensor with so many axes; ValueError for other arrays, pickles and values that are not finite."""
    try:
        tensor = torch.from_numpy(np.load(BytesIO(content), allow_pickle=False).astype(np.float32))
    except (EOFError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"an array cannot be read ({error}): compute it again") from error
    if tensor.ndim != axes or 0 in tensor.shape or not bool(tensor.isfinite().all()):
        raise ValueError(
            f"an array has shape {list(tensor.shape)}, needed are {axes} axes of finite numbers: compute it again"
        )
    return tensor


def to_npy(tensor: Tensor) -> bytes:
    """A .npy file's content, in half precision."""
    content = BytesIO()
    np.save(content, tensor.half().cpu().numpy(), allow_pickle=False)
    return content.getvalue()
