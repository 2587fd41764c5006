"""Conditionings of several pictures, for one of them that is sampled alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from .areas import masks_of
from .control import Hints
from .shown import MASK, REDUX, Shown

POOLED, REFERENCES = "pooled_output", "reference_latents"  # the host's


def of_picture(*conditionings: list, number: int, pictures: int) -> list[list]:
    """Copies with what they say of the picture of that number: the host gives texts, hints, references and masks to the
    pictures of a batch in turn. What shares a ControlNet still does. ValueError for masks that do not come out even."""
    if pictures == 1:
        return list(conditionings)

    def own(of: Tensor) -> Tensor:
        return of[number % len(of)][None]

    hints = Hints(lambda hint, ratio, algorithm: own(hint))

    def one(text: Tensor, said: dict[str, Any]) -> list:
        said = dict(said)
        for name in {POOLED, MASK} & said.keys():
            if isinstance(said[name], Tensor) and len(said[name]) == len(text):
                said[name] = own(said[name])
        if "mask" in said:
            said["mask"] = own(masks_of(said["mask"], pictures=pictures))
        if REFERENCES in said:
            said[REFERENCES] = [own(each) for each in said[REFERENCES]]
        if said.get("control") is not None:
            said["control"] = hints(said["control"])
        if REDUX in said:
            said[REDUX] = tuple(_own_redux(each, number) for each in said[REDUX])
        return [own(text), said]

    return [[one(text, said) for text, said in each] for each in conditionings]


def _own_redux(shown: Shown, number: int) -> Shown:
    tokens = shown.redux.tokens[number % shown.redux.pictures][None]
    return replace(shown, redux=replace(shown.redux, tokens=tokens))
