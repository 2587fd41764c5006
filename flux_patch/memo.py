"""What a sampling run makes once and uses at every step, within a bound of bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")
LIMIT = 384 * 2**20  # bytes; at FLUX.1's size the keys and values of a tile take 63 MB
LIMIT_OF_LARGE = 256 * 2**20  # beyond it keys and values are made again at each step, a thousandth of FLUX's own work


class RunMemo:
    """Values by key, for the length of one run. What comes first stays: tiles take turns, so the oldest is the next.

    An object, because ComfyUI copies dicts at every step. Keys may hold ids of objects that live as long as the run.
    """

    def __init__(self, limit: int = LIMIT, limit_of_large: int = LIMIT_OF_LARGE) -> None:
        self.limit, self.limit_of_large = limit, limit_of_large
        self.bytes = 0
        self._values: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T], *, large: bool = False) -> T:
        """The value of a key, made at the first call, and again at each one where it does not fit."""
        if key in self._values:
            return self._values[key]
        value = make()
        size = bytes_of(value)
        if self.bytes + size <= (self.limit_of_large if large else self.limit):
            self._values[key] = value
            self.bytes += size
        return value

    def clear(self) -> None:
        """Forget all, where it will not be asked for again."""
        self.bytes = 0
        self._values.clear()


def bytes_of(value: Any) -> int:
    """Of all tensors in a value."""
    if isinstance(value, Tensor):
        return value.nbytes
    if is_dataclass(value):
        return sum(bytes_of(getattr(value, field.name)) for field in fields(value))
    return sum(map(bytes_of, value)) if isinstance(value, tuple) else 0
