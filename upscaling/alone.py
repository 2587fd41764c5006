"""One picture at a time on a FLUX, whose hooks add what belongs to the picture that it is at work on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from weakref import WeakKeyDictionary

from torch import nn


class _Turn:
    def __init__(self) -> None:
        self.lock, self.thread = Lock(), 0  # of whoever has it


_TURNS: WeakKeyDictionary[nn.Module, _Turn] = WeakKeyDictionary()
_LOOK = Lock()


@contextmanager
def alone(flux: nn.Module) -> Iterator[None]:
    """Wait until no other thread is in here with the same model; ValueError where this one is, which would wait for ever."""
    with _LOOK:
        turn = _TURNS.setdefault(flux, _Turn())
    if turn.thread == get_ident():
        raise ValueError(
            "this FLUX is at work on a picture, whose callback asked for another one: let the callback return, and ask for it "
            "after this one"
        )
    with turn.lock:
        turn.thread = get_ident()
        try:
            yield
        finally:
            turn.thread = 0
