"""What the files that belong to a FlatDINO have in common: a header that names their kind, and weights for one module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...files.errors import BROKEN, printable
from ...files.weights import check_finite, check_floating, read_weights

VERSION = "1"
Module = TypeVar("Module", bound=nn.Module)


def read_kind(path: Path, *, kind: str, needed: str, command: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a file; ValueError where it is no ``kind``, ``needed`` in words, and for tensors that are not finite.

    command: of ``dinotile flatdino``, which writes such files.
    """
    tensors, about = read_weights(path)
    if (about.get("format"), about.get("version")) != (kind, VERSION):
        raise ValueError(
            f"{path.name} says {printable(about.get('format', 'nothing'))}, needed {needed}: choose a file that "
            f"`dinotile flatdino {command}` wrote"
        )
    check_floating(tensors, name=path.name)
    check_finite(tensors, name=path.name)
    return tensors, about


def filled(module: Module, tensors: Mapping[str, Tensor], *, name: str, device: torch.device | str) -> Module:
    """A module without memory with these weights, float32, in evaluation mode; ValueError where they are not its own."""
    try:
        module.load_state_dict({key: tensor.float().clone() for key, tensor in tensors.items()}, assign=True)
    except BROKEN as error:
        raise ValueError(f"{name} does not fit its own header ({printable(str(error))}): train it again") from error
    return module.to(device).requires_grad_(False).eval()
