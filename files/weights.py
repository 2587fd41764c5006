"""Tensors from and to safetensors files; no other format is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import BROKEN, printable, reason
from .writing import replacing

Shapes = dict[str, tuple[int, ...]]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # of save_pretrained


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, on the CPU, and its metadata; ValueError, one sentence, for anything else."""
    with _opened(Path(path)) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})


def read_shapes(path: str | Path) -> tuple[Shapes, dict[str, str]]:
    """The shapes of a file's tensors, which are not read, and its metadata; ValueError as for ``read_weights``."""
    with _opened(Path(path)) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        return shapes, dict(file.metadata() or {})


def weight_files(path: Path) -> list[Path]:
    """The files that hold a model's tensors: ``path`` itself, all shards where it is one, or those of a folder that
    save_pretrained wrote, ``model.safetensors`` or what its index names. ValueError where some are not there."""
    shard = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})\.safetensors", path.name)
    if shard:
        count = int(shard[2])
        files = [path.with_name(f"{shard[1]}-{number:05}-of-{count:05}.safetensors") for number in range(1, count + 1)]
    elif not path.is_dir():
        files = [path]
    elif (path / WEIGHTS).is_file() or not (path / INDEX).is_file():
        files = [path / WEIGHTS]
    else:
        files = [path / name for name in indexed_files(path / INDEX)]
    if path.is_dir() and not files[0].is_file():
        names = ", ".join(sorted(printable(entry.name) for entry in path.iterdir())[:5]) or "nothing"
        raise ValueError(f"folder {path} holds {names}, needed is {files[0].name}: download that file into it")
    return files


def indexed_files(index: Path) -> list[str]:
    """The shards that a model.safetensors.index.json names, which lie beside it; ValueError where it is none."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (*BROKEN, OSError) as error:
        raise ValueError(f"{index} is no index of shards ({reason(error)}): download it again") from error
    odd = [name for name in names if not re.fullmatch(r"[^/\\:]+\.safetensors", str(name))]
    if odd or not names:
        raise ValueError(f"{index} names {printable(odd)}, needed are .safetensors files beside it: download it again")
    return names


def read_kinds(path: str | Path) -> dict[str, str]:
    """What a file's tensors are made of, as safetensors says it: F32, BF16, I8 ...; ValueError as for ``read_weights``."""
    with _opened(Path(path)) as file:
        return {name: file.get_slice(name).get_dtype() for name in file.keys()}


def check_floating(weights: Mapping[str, Tensor], *, name: str) -> None:
    """ValueError for a tensor of integers, which would be taken for numbers that it does not stand for."""
    odd = next((key for key, tensor in weights.items() if not tensor.is_floating_point()), None)
    if odd:
        raise ValueError(not_floating(name, odd, weights[odd].dtype))


def not_floating(name: str, tensor: str, kind: object) -> str:
    """The sentence about it."""
    return f"{name} holds {printable(tensor)} as {kind}, needed are floating point weights: get the full file"


def check_finite(weights: Mapping[str, Tensor], *, name: str) -> None:
    """ValueError for weights that are NaN or infinite, whose results all are. Reads them all: for small models."""
    odd = next((key for key, tensor in weights.items() if not bool(tensor.isfinite().all())), None)
    if odd:
        raise ValueError(
            f"{name} holds numbers that are not finite ({printable(odd)}), needed are finite weights: get the full file"
        )


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a file whole or not at all; ValueError where that fails, and an older file is then as it was."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as part:
        part.touch()
        mode = part.stat().st_mode  # of any new file here; safetensors makes private ones
        save_file(held, part, metadata=dict(metadata) if metadata else None)
        part.chmod(mode)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}, needed is a .safetensors file: check the path")
    try:
        _check_container(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} ({path.stat().st_size} bytes) is cut short or damaged ({reason(error)}), "
            "a whole safetensors file is needed: download it again"
        ) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({reason(error)}): check its permissions") from error


def _check_container(path: Path) -> None:
    """Refuse what is not safetensors at all: 8 bytes of header length, then JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        raise ValueError(
            f"{path.name} is a pickle (torch.save), which could run any program when opened, only safetensors is read: "
            "get the .safetensors version, or convert it with safetensors.torch.save_file"
        )
    raise ValueError(
        f"{path.name} starts with {head!r}, which is not safetensors, the one format that is read: "
        "get the .safetensors version, or download it again"
    )
