"""A small memory of features by content, so that a picture is encoded once."""

from collections import OrderedDict
from threading import Lock

from torch import Tensor

Features = tuple[Tensor, Tensor]  # patches [h, w, D], cls [D]


class FeatureCache:
    """Least recently used features go first when there are more than `entries` or `max_bytes`; all on the CPU.
    Threads may share one."""

    def __init__(self, entries: int = 16, max_bytes: int = 512 * 2**20) -> None:
        self.entries = entries
        self.max_bytes = max_bytes
        self.bytes = 0
        self._items: OrderedDict[str, Features] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str) -> Features | None:
        """The features stored under `key`, which then count as just used."""
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key]

    def put(self, key: str, features: Features) -> None:
        """Store features; an entry larger than the whole cache is not kept."""
        size = _size(features)
        if size > self.max_bytes or self.entries < 1:
            return
        with self._lock:
            self._drop(key)
            self._items[key] = features
            self.bytes += size
            while len(self._items) > self.entries or self.bytes > self.max_bytes:
                self._drop(next(iter(self._items)))

    def _drop(self, key: str) -> None:
        if key in self._items:
            self.bytes -= _size(self._items.pop(key))


def _size(features: Features) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in features)
