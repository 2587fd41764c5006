"""Where the memory of a device ends: the same once more with less at a time, said to the person and to the report."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from ..files.errors import out_of_memory
from ..tiling.plan import TilePlan

log = logging.getLogger("dinotile")
Value = TypeVar("Value")


def in_tiles(plan: TilePlan) -> str:
    """What a run goes on with that has to lay smaller tiles."""
    return f"tiles of {plan.tile_width} x {plan.tile_height} px"


def shrank(shortage: Mapping[str, str]) -> bool:
    """Whether it was met by smaller tiles, which draw another picture."""
    return shortage["stage"] == "sample" and shortage["goes_on_with"].startswith("tiles of ")


def each_once(shortages: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Those of a kind as one, in their order."""
    return [dict(each) for each in dict.fromkeys(tuple(each.items()) for each in shortages)]


@dataclass
class Shortages:
    """Of one picture: each stage that ran out of memory and what it went on with, and the plan where tiles had to shrink."""

    told: list[dict[str, str]] = field(default_factory=list)
    plan: TilePlan | None = None


_picture: ContextVar[Shortages] = ContextVar("shortages")


@contextmanager
def shortages_told() -> Iterator[Shortages]:
    """What runs out of memory inside of it, of which ``shortages`` tells; within another one, that one's."""
    known = _picture.get(None)
    token = _picture.set(known or Shortages())
    try:
        yield _picture.get()
    finally:
        _picture.reset(token)


def shortages() -> Shortages:
    """Those of the picture that is being made; elsewhere some that nobody reads."""
    return _picture.get(Shortages())


@dataclass(frozen=True)
class Memory:
    """That of a device: how it is known that it ended, and what can be done about it without taking less."""

    device: torch.device

    def ended(self, error: Exception) -> bool:
        return out_of_memory(error)

    def free(self) -> None:
        """Give back what torch keeps of what was freed."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()


def in_less(work: Callable[[], Value], *, stage: str, ways: Iterator[str], memory: Memory) -> Value:
    """What ``work`` gives; where memory ends, once more after each of ``ways``.

    A step of ``ways`` sees to it that the work takes less than before and says how, in words that follow "goes on with". Where
    there is none left the error goes on.
    """
    while True:
        try:
            return work()
        except Exception as error:
            if not memory.ended(error):
                raise
            said = next(ways, None)
            if said is None:
                raise
        memory.free()  # here, as the exception, gone by now, held the tensors of all that it passed through
        log.warning("%s ran out of memory and goes on with %s", stage, said)
        shortages().told.append({"stage": stage, "goes_on_with": said})
