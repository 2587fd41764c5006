"""Features and text that lie beside a picture: as ``dinotile features`` writes them, or plain arrays of another maker."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from ...files.fingerprints import fingerprint
from .sample import Unusable, unusable
from .side_files import (
    TEXT_ARRAYS,
    TEXT_INFO,
    TEXT_MASK,
    FeatureInfo,
    TextInfo,
    compressed_files,
    feature_files,
    plain_cls,
    read_npy,
)
from .sources import Entry


def feature_names(entry: Entry, family: str, *, plain: bool) -> tuple[str, ...]:
    """Endings of the patches', the CLS token's and the info's file of a sample, without the last one where features are
    ``plain`` and have none; raises ``Unusable`` where one is missing."""
    patches, cls, info = feature_files(family)
    compressed = compressed_files(family)
    if compressed[0] in entry.members and patches not in entry.members:
        patches = compressed[0]
    names: tuple[str, ...] = (patches, cls, info)
    if plain and info not in entry.members:
        names = (patches, cls if cls in entry.members else plain_cls(family))
    missing = [name for name in names if name not in entry.members]
    if missing:
        raise Unusable(f"without {', '.join(missing)}")
    return names


def stored_features(entry: Entry, family: str, *, plain: bool) -> tuple[Tensor, Tensor, FeatureInfo | None]:
    """Patches [h, w, D], the CLS token [D], both float32, and what made them; raises ``Unusable``.

    Where that says that a FlatDINO compressed the patches, the first is what it left of them, see ``from_stored``.
    plain: arrays without an info will do, patches also as [N, D] of a square grid. Their tokens are normalised without
    affine, as ours are.
    """
    names = feature_names(entry, family, plain=plain)
    with unusable("with damaged features"):
        patches, cls, *text = (entry.members[name].read() for name in names)
        info = FeatureInfo.model_validate_json(text[0]) if text else None
        compressed = info is not None and bool(info.flat)
        axes = (1, 2) if compressed else (2, 3) if info is None else (3,)
        grid, token = read_npy(patches, axes=axes), read_npy(cls, axes=(1,))
        if compressed != (names[0] == compressed_files(family)[0]):
            raise ValueError(f"{names[0]} and {names[-1]} are of different runs")
        if not compressed and grid.shape[-1] != len(token):
            raise ValueError(f"patches are {grid.shape[-1]} wide and CLS {len(token)}")
    if info is not None:
        return grid, token, info
    return F.layer_norm(_square(grid), token.shape), F.layer_norm(token, token.shape), None


def _square(patches: Tensor) -> Tensor:
    side = math.isqrt(len(patches))
    if patches.ndim == 2 and side * side != len(patches):
        raise Unusable(f"with {len(patches)} patches, which are no square")
    return patches.unflatten(0, (side, side)) if patches.ndim == 2 else patches


def stored_text(entry: Entry, family: str = "") -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """T5's tokens [n, 4096], CLIP's vector [768] and True for the tokens [n] that count, or FLUX.2's tokens [n, C], a vector [0]
    and None; None where the sample has none. family: of models, whose text is wanted where a sample has several. Raises
    ``Unusable``, also where `dinotile features` has not finished the text or made it of another caption."""
    there = [
        name for name, arrays in TEXT_ARRAYS.items() if not entry.members.keys().isdisjoint((TEXT_INFO[name], *arrays))
    ]
    family = family if family in there else (there or list(TEXT_ARRAYS))[0]
    info, told = None, TEXT_INFO[family]
    if told in entry.members:
        with unusable(f"with a damaged {told}"):
            info = TextInfo.model_validate_json(entry.members[told].read())
        missing = [name for name in TEXT_ARRAYS[family] if name not in entry.members]
        if missing:
            raise Unusable(f"without {', '.join(missing)}")
        if "txt" in entry.members and info.caption != fingerprint(entry.members["txt"].read()):
            raise Unusable("with text of another caption")
    if family == "flux2":
        context = _array(entry, "flux2.npy", axes=2)
        return context, None if context is None else context.new_zeros(0), None
    context = _array(entry, "t5.npy", axes=2)
    # A mask that `dinotile features` made earlier may not belong to the text.
    masked = TEXT_MASK in entry.members if info is None else info.masked
    return context, _array(entry, "clip.npy", axes=1), _mask(entry, context) if masked else None


def _mask(entry: Entry, context: Tensor | None) -> Tensor | None:
    """True for the text tokens that count, of which there is one at least."""
    if context is None:
        return None
    if TEXT_MASK not in entry.members:
        raise Unusable(f"without {TEXT_MASK}")
    mask = _array(entry, TEXT_MASK, axes=1)
    if mask is None or len(mask) != len(context) or not bool(mask.any()):
        raise Unusable(f"with a {TEXT_MASK} that does not fit its t5.npy")
    return mask != 0


def _array(entry: Entry, name: str, *, axes: int) -> Tensor | None:
    if name not in entry.members:
        return None
    with unusable(f"with a damaged {name}"):
        return read_npy(entry.members[name].read(), axes=(axes,))
