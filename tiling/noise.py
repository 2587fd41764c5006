"""Noise that belongs to a place: every part of it is the same whatever else is drawn, in whatever order, by whom."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from .canvas import cut
from .plan import Box

BLOCK = 32  # latent cells; files of finished tiles depend on it
Noise = Literal["canvas", "place"]  # drawn for the whole canvas at once, or by ``placed_noise``
NOISES: tuple[Noise, ...] = get_args(Noise)


def placed_noise(box: Box, *, channels: int, seed: int, turn: int = 0) -> Tensor:
    """Standard normal noise [channels, height, width] of a box of the latent canvas, on the CPU.

    The canvas is laid out in blocks of ``BLOCK`` cells from its corner; each is drawn by a generator of its own, which a hash of
    seed, turn and the block's row and column starts. turn: another draw for the same seed, of tiles that are done again.
    """
    first_row, first_column = box.top // BLOCK, box.left // BLOCK
    rows, columns = range(first_row, -(-box.bottom // BLOCK)), range(first_column, -(-box.right // BLOCK))
    blocks = [[_block(channels, (seed, turn, row, column)) for column in columns] for row in rows]
    sheet = torch.cat([torch.cat(line, dim=2) for line in blocks], dim=1)
    return cut(sheet, Box(box.top - first_row * BLOCK, box.left - first_column * BLOCK, box.height, box.width))


def canvas_noise(shape: Sequence[int], *, seed: int) -> Tensor:
    """``placed_noise`` of a whole canvas, like latents [B, C, h, w]: all pictures of a batch have the same."""
    batch, channels, height, width = shape
    noise = placed_noise(Box(0, 0, height, width), channels=channels, seed=seed)
    return noise.repeat(batch, 1, 1, 1)


def seed_of(box: Box, *, seed: int) -> int:
    """For what is drawn in a box beside ``placed_noise``, as samplers do that add noise in every step: no two boxes share it."""
    return _number((seed, box.top, box.left, box.height, box.width))


def _block(channels: int, place: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(_number(place))
    return torch.randn(channels, BLOCK, BLOCK, generator=generator)


def _number(place: tuple[int, ...]) -> int:
    """0 to 2^63 - 1."""
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:8], "big") >> 1
