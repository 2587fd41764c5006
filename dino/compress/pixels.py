"""A decoder from the patches that a FlatDINO restores to pixels, and its file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ...files.errors import printable, whole
from ...files.weights import write_weights
from .config import SIZES
from .files import VERSION, filled, read_kind
from .model import initial
from .vit import Vit

FORMAT = "dinotile_flatdino_pixels"
MOST_PATCH = 64  # px


@dataclass(frozen=True)
class PixelConfig:
    """For patches [h, w, D] of the FlatDINO with fingerprint ``flat``. patch: px of a patch's side. size: a key of ``SIZES``."""

    flat: str
    grid: tuple[int, int]
    width: int
    patch: int
    size: str

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size {self.size!r} must be one of {', '.join(SIZES)}: usually b")
        if not 1 <= self.patch <= MOST_PATCH:
            raise ValueError(f"a patch of {self.patch} px must be of 1 to {MOST_PATCH}: usually 16")

    @property
    def height(self) -> int:
        return self.grid[0] * self.patch

    def values(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {**asdict(self), "grid": list(self.grid)}


class PixelDecoder(nn.Module):
    """A vision transformer over the patches, which draws each as a square of pixels."""

    def __init__(self, config: PixelConfig) -> None:
        super().__init__()
        self.config, size = config, SIZES[config.size]
        self.embed = nn.Linear(config.width, size.width)
        self.positions = nn.Parameter(torch.empty(config.grid[0] * config.grid[1], size.width))
        self.vit = Vit(size)
        self.head = nn.Linear(size.width, 3 * config.patch**2)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, h, w, D] -> [B, 3, H, W], of which 0..1 counts."""
        x = self.vit(self.embed(patches.flatten(1, 2)) + self.positions)
        patch, rows = self.config.patch, self.config.grid[0]
        return 0.5 + rearrange(self.head(x), "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=patch, q=patch)


def new_pixels(config: PixelConfig, *, seed: int = 0) -> PixelDecoder:
    """Fresh weights, float32 on the CPU: the same for a seed on any machine."""
    model, generator = PixelDecoder(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial(name, parameter.shape, generator))
    return model


def save_pixels(model: PixelDecoder, path: str | Path, *, provenance: dict[str, Any] | None = None) -> None:
    """Write it whole or not at all; ValueError where that fails."""
    about = {"format": FORMAT, "version": VERSION, "config": json.dumps(model.config.values(), sort_keys=True)}
    about["provenance"] = json.dumps(provenance or {}, sort_keys=True)
    write_weights(Path(path), dict(model.state_dict()), about)


def load_pixels(path: str | Path, *, flat: str, device: torch.device | str = "cpu") -> PixelDecoder:
    """For the FlatDINO with fingerprint ``flat``; ValueError in one sentence for another's and any other file."""
    path = Path(path)
    tensors, about = read_kind(path, kind=FORMAT, needed="is a decoder to pixels", command="train-decoder")
    with whole(path.name, "decoder"), torch.device("meta"), torch.inference_mode(False):
        values = json.loads(about["config"])
        config = PixelConfig(**{**values, "grid": tuple(values["grid"])})
        module = PixelDecoder(config)
    if config.flat != flat:
        raise ValueError(
            f"{path.name} draws what another FlatDINO restores ({printable(config.flat)}, not {flat}): give that one, or train "
            "a decoder anew"
        )
    return filled(module, tensors, name=path.name, device=device)
