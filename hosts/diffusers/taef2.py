"""FLUX.2's small VAE, TAEF2, which diffusers has not: TAESD's layers, some with a look at the whole map, on latents that the
model has already normalised and folded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ...files.errors import printable
from ...flux_patch.families import FLUX2

WIDTH, FOLDED = 64, 2  # channels of a map; cells of its own in a cell of the model, on each axis
CHANNELS = FLUX2.channels // FOLDED**2
POOLED = re.compile(r"(?:^|\.)\d+\.pool\.\d+\.weight$")


class Taef2(nn.Module):
    """Pixels in 0..1 to FLUX.2's latents and back. It runs whole, not in strips, as its norms see all of a map."""

    def __init__(self) -> None:
        super().__init__()
        plain, pooled = [False] * 3, [True] * 3
        self.encoder = nn.Sequential(
            conv(3, WIDTH),
            Block(),
            *(layer for pools in (plain, plain, pooled) for layer in (_half(), *map(Block, pools))),
            conv(WIDTH, CHANNELS),
        )
        self.decoder = nn.Sequential(
            Clamp(),
            conv(CHANNELS, WIDTH),
            nn.ReLU(),
            *(layer for pools in (pooled, plain, plain) for layer in (*map(Block, pools), *_double())),
            Block(),
            conv(WIDTH, 3),
        )
        self.config = {"latent_channels": FLUX2.channels}

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in 0..1, sides multiples of 16 -> [B, 128, H / 16, W / 16], float32."""
        latents = self.encoder(pixels.to(self.device, self.dtype))
        return pixel_unshuffle(latents, FOLDED).to(pixels.device, torch.float32)

    def decode(self, latents: Tensor) -> Tensor:
        """[B, 128, h, w] -> [B, 3, 16 h, 16 w] of about 0..1, float32."""
        pixels = self.decoder(pixel_shuffle(latents, FOLDED).to(self.device, self.dtype))
        return pixels.to(latents.device, torch.float32)


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """A residual block; pooled: behind another one whose norm takes in the whole map."""

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH))
        self.pool = None
        if pooled:
            wide = 4 * WIDTH
            narrow = {"kernel_size": 1, "bias": False}
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, wide, **narrow), nn.GroupNorm(4, wide), nn.ReLU(), nn.Conv2d(wide, WIDTH, **narrow)
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def conv(given: int, made: int, **more: int | bool) -> nn.Conv2d:
    return nn.Conv2d(given, made, 3, padding=1, **more)  # type: ignore[arg-type]


def _half() -> nn.Conv2d:
    return conv(WIDTH, WIDTH, stride=2, bias=False)


def _double() -> tuple[nn.Module, nn.Module]:
    return nn.Upsample(scale_factor=2), conv(WIDTH, WIDTH, bias=False)


def is_taef2(weights: Mapping[str, object]) -> bool:
    """Whether a file's tensors, or one half's, are such a VAE's."""
    return any(POOLED.search(name) for name in weights)


def blank() -> Taef2:
    """Without data."""
    with torch.device("meta"):
        return Taef2()


def both_halves(
    path: Path, weights: Mapping[str, Tensor], *, read: Callable[[Path], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors of a file by the names that they have here, and where it is one half (``..._decoder...``) those of the other
    beside it; ValueError for other tensors, and where that is not there."""
    named = _named(weights, name=path.name)
    (half, *others) = {key.split(".")[0] for key in named}
    other = path.with_name(path.name.replace(half, "encoder" if half == "decoder" else "decoder"))
    if others or other == path:
        return named
    if not other.is_file():
        raise ValueError(f"{path.name} is one half of a TAEF2, the other is not beside it: put {other.name} there")
    return named | _named(read(other), name=other.name)


def _named(weights: Mapping[str, Tensor], *, name: str) -> dict[str, Tensor]:
    """A whole file has ``taesd_encoder.0.weight``, or ``encoder.layers.0.weight`` as huggingface.co/madebyollin/taef2, which does
    not count the decoder's first layer, as it has no weights; a half has ``0.weight``, and which of them says its ``name``."""
    half = "" if any("coder." in key for key in weights) else f"{'de' if 'decoder' in name else 'en'}coder."
    out = {}
    for key, tensor in weights.items():
        match = re.fullmatch(r"(?:taesd_)?((?:en|de)coder)\.(layers\.)?(\d+)\.(.+)", half + key)
        if match is not None:
            first = match[2] is not None and match[1] == "decoder"
            out[f"{match[1]}.{int(match[3]) + first}.{match[4]}"] = tensor
        elif key not in ("vae_scale", "vae_shift"):
            raise ValueError(f"{name} holds {printable(key)}, which is no part of a TAEF2: choose another file")
    return out
