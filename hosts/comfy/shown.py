"""Redux's tokens in a CONDITIONING, and how each tile comes to those of its own region.

They stand in the text itself, where the host's *Apply Style Model* puts its own, so that any FLUX reads them. What they were
made of goes along under ``REDUX``: a tiled model puts the tile's tokens in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...flux_patch.redux import ReduxTokens, RegionTokens
from .crop import with_cond
from .inject import widen_mask

REDUX = "dinotile_redux"  # in a conditioning's dict: a tuple of ``Shown``
COVERS = "dinotile_covers"  # beside it: height and width in latent cells that the picture has on a padded canvas
NOTHING = -1e4  # in a mask, for a share of 0: the host stretches masks, which makes NaN of infinity
MASK, MASK_SHAPE = "attention_mask", "attention_mask_img_shape"  # the host's


@dataclass(frozen=True, eq=False)
class Shown:
    """Pictures that a text shows from token ``start`` on."""

    redux: ReduxTokens
    start: int

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.redux.count)


def show(conditioning: list, redux: ReduxTokens) -> list:
    """A copy of a CONDITIONING whose texts end with the tokens of the whole pictures."""
    return [_show(text, said, redux) for text, said in conditioning]


def _show(text: Tensor, said: dict[str, Any], redux: ReduxTokens) -> list:
    whole, shown = redux.region(), Shown(redux, text.shape[1])
    tokens = whole.tokens.to(text)
    batch = max(len(text), len(tokens))
    if tokens.shape[-1] != text.shape[-1]:
        raise ValueError(
            f"the style model gives tokens {tokens.shape[-1]} wide, the conditioning's text has {text.shape[-1]}: connect a "
            "conditioning of FLUX.1, which Redux was made for"
        )
    if {len(text), len(tokens)} - {1, batch}:
        raise ValueError(
            f"the image holds {len(tokens)} pictures, the conditioning {len(text)} texts: give one of either, or as many"
        )
    said = {**said, REDUX: (*said.get(REDUX, ()), shown)}
    mask = said[MASK] if MASK in said and MASK_SHAPE in said else None  # without a shape the host leaves it unused
    if mask is None and whole.weights is not None:
        mask, said[MASK_SHAPE] = torch.zeros(1, shown.start + 1, shown.start + 1), (1, 1)
    if mask is not None:
        said[MASK] = weigh(widen_mask(mask, at=shown.start, by=redux.count), whole.weights, shown.place)
    return [torch.cat([text.expand(batch, -1, -1), tokens.expand(batch, -1, -1)], dim=1), said]


def weigh(mask: Tensor, weights: Tensor | None, place: slice) -> Tensor:
    """An attention mask [.., L, L] that gives the tokens at a place so many times their share of every token's attention."""
    if weights is None:
        return mask
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, -torch.inf)
    mask = mask.clone()
    mask[..., place] = weights.log().clamp(min=NOTHING).to(mask)  # a key's logits plus ln(w) are w times its share
    return mask


def still_shown(conditioning: list, *, batch: int) -> list:
    """A copy after ``check_shown``."""
    return [[text, check_shown(said, text, batch=batch)] for text, said in conditioning]


def check_shown(said: dict[str, Any], text: Tensor, *, batch: int) -> dict[str, Any]:
    """What is said beside a text in a run on ``batch`` latents, without the pictures that the text does not show any more,
    because a node made it zero; ValueError where it shows something else, or another number of pictures."""
    kept = []
    for shown in said.get(REDUX, ()):
        found, wanted = text[:, shown.place], shown.redux.region().tokens
        if not found.any():
            continue
        if found.shape[1:] != wanted.shape[1:] or not bool((found == wanted.to(found)).all()):
            raise ValueError(
                "the tokens of 'Redux for Tiles' were changed by a node behind it, so that tiles cannot be given their own: "
                "put 'Redux for Tiles' behind that node"
            )
        if batch % shown.redux.pictures:
            raise ValueError(
                f"Redux shows {shown.redux.pictures} pictures, the latent holds {batch}: give 'Redux for Tiles' one picture, "
                "or as many as the latent holds"
            )
        kept.append(shown)
    return {**said, REDUX: tuple(kept)} if REDUX in said else said


def shown_by(cond: dict[str, Any]) -> tuple[Shown, ...]:
    """The pictures that a conditioning's text shows. Where an area has none for the other side of CFG, the host makes one with
    the area's keys and the other side's text, which shows none of them."""
    found = []
    for shown in cond.get(REDUX, ()):
        text, wanted = cond["model_conds"]["c_crossattn"].cond[:, shown.place], shown.redux.region().tokens
        if text.shape[1:] == wanted.shape[1:] and bool((text == wanted.to(text)).all()):
            found.append(shown)
    return tuple(found)


def put(entries: dict[str, Any], shown: Sequence[tuple[slice, RegionTokens]]) -> dict[str, Any]:
    """Entries of ``model_conds`` of a tile with the tokens of its own region in their places."""
    entries = dict(entries)
    for place, region in shown:
        text, mask = entries["c_crossattn"], entries.get(MASK)
        whole = text.cond.clone()
        whole[:, place] = region.tokens.to(whole)
        entries["c_crossattn"] = with_cond(text, whole)
        if mask is not None:
            entries[MASK] = with_cond(mask, weigh(mask.cond, region.weights, place))
    return entries
