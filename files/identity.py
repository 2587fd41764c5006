"""What tells a model on disk from another of the same name, without reading it whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from .fingerprints import fingerprint_of
from .weights import weight_files

SAMPLE = 4096  # bytes at the start of each tensor: another training leaves none of them as it was
SMALL = 16 << 20  # bytes; files up to this size are read whole
LENGTH = 8  # bytes that say how long the header of a safetensors file is


def model_fingerprint(path: Path) -> str:
    """Of a model's file with its shards, or of all files of its folder and their names: small ones whole, of large ones the
    header and the start of each tensor. Files that are not there or cannot be read are left to who loads the model."""
    if path.is_dir():
        inside = sorted(inner for inner in path.rglob("*") if inner.is_file())
        names = [(inner.relative_to(path).as_posix(), inner) for inner in inside]
        files = [(name, inner) for name, inner in names if "/." not in f"/{name}"]
    else:
        shards = weight_files(path)
        files = [(shard.name if shards[1:] else "", shard) for shard in shards]
    return fingerprint_of(part for name, file in files for part in (name.encode(), *_samples(file)))


def _samples(path: Path) -> Iterator[bytes]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            yield size.to_bytes(LENGTH, "little")
            if size <= SMALL:
                yield file.read()
                return
            header = file.read(LENGTH)
            header += file.read(min(int.from_bytes(header, "little"), SMALL))
            yield header
            for start in _starts(header[LENGTH:]):
                file.seek(len(header) + start)
                yield file.read(SAMPLE)
    except OSError:
        return


def _starts(header: bytes) -> list[int]:
    """Where the tensors begin, behind a header of safetensors; nowhere where it is none, which its reader tells."""
    try:
        tensors = json.loads(header)
        return sorted(tensors[name]["data_offsets"][0] for name in tensors if name != "__metadata__")
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
