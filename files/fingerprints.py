"""What tells contents apart: 16 hex digits of their SHA-256. Files on disk carry them, so they never change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # most of what is told apart are bytes, and torch takes seconds
    from torch import Tensor


def fingerprint(content: bytes) -> str:
    """Of a file's content."""
    return fingerprint_of([content])


def fingerprint_of(parts: Iterable[bytes | memoryview]) -> str:
    """Of parts of a content, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def file_fingerprint(*paths: Path) -> str:
    """Of a file of any size, or of several, one after the other."""
    return fingerprint_of(part for path in paths for part in _parts(path))


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(1 << 24), b"")


def weights_fingerprint(weights: Mapping[str, Tensor], *, head: bytes = b"") -> str:
    """Of tensors and their names in alphabetical order, after ``head``."""
    return fingerprint_of(_bytes_of(weights, head))


def first_numbers(tensor: Tensor) -> bytes:
    """Of a tensor, enough to tell weights apart where all of them would take too long."""
    return tensor.detach().flatten()[:64].cpu().float().numpy().tobytes()


def _bytes_of(weights: Mapping[str, Tensor], head: bytes) -> Iterator[bytes | memoryview]:
    import torch

    yield head
    for name in sorted(weights):
        yield name.encode()
        yield weights[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def heads_fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Of a model's names, shapes and the first numbers of each tensor: other weights have others, and it takes no time."""
    parts = (
        (name.encode(), repr(tuple(weights[name].shape)).encode(), first_numbers(weights[name]))
        for name in sorted(weights)
    )
    return fingerprint_of(part for each in parts for part in each)
