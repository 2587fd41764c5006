"""The picture that latents show, at its source's size, and what a wish for that picture means for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...files.pixels import resize_signed

PIECE, MARGIN = 96, 8  # latent cells: of the canvas per decoding, and around it, which a decoder sees but does not keep
SMALLEST = 16  # cells of a piece; where those do not fit, nothing does
Decode = Callable[[Tensor], Tensor]
Pull = Callable[[Tensor], Tensor]

log = logging.getLogger("dinotile")


@dataclass(frozen=True)
class Piece:
    """Rows and columns of the canvas, in latent cells: those that are decoded, and those of them that are kept."""

    seen: tuple[slice, slice]
    kept: tuple[slice, slice]

    def inner(self, cell: int) -> tuple[slice, slice]:
        """The kept part within what is decoded, ``cell`` px per latent cell."""
        return tuple(
            slice((kept.start - seen.start) * cell, (kept.stop - seen.start) * cell)
            for seen, kept in zip(self.seen, self.kept, strict=True)
        )  # type: ignore[return-value]


class Decoder:
    """decode: latents [1, C, h, w] -> pixels [1, 3, H, W], about 0..1, differentiable. cell: px per latent cell. size: height
    and width in px that the picture has on the canvas. source: height and width at which it is looked at.

    Memory is that of one piece, however large the canvas; where it does not suffice, pieces become smaller for good.
    """

    def __init__(self, decode: Decode, *, cell: int, size: tuple[int, int], source: tuple[int, int]) -> None:
        self.decode, self.cell, self.size, self.source = decode, cell, size, source
        self.piece = PIECE

    def __call__(self, latents: Tensor) -> tuple[Tensor, Pull]:
        """The picture [1, 3, h, w], and a function from a gradient by it to the gradient by ``latents``, to be called once."""
        while True:
            try:
                return self._decoded(latents)
            except torch.OutOfMemoryError:
                if self.piece <= SMALLEST:
                    raise
            self.piece //= 2
            log.warning("guidance ran out of memory: it decodes %d px at a time now", self.piece * self.cell)

    def _decoded(self, latents: Tensor) -> tuple[Tensor, Pull]:
        pieces = list(self._pieces(*latents.shape[-2:]))
        if len(pieces) == 1:  # what was computed is kept for the gradient
            with torch.enable_grad():
                leaf = latents.detach().requires_grad_()
                picture = self._shrunk(self.decode(leaf))
            return picture.detach(), lambda gradient: torch.autograd.grad(picture, leaf, gradient)[0]
        height, width = (side * self.cell for side in latents.shape[-2:])
        large = latents.new_empty(1, 3, height, width, dtype=torch.float32)
        for piece in pieces:
            rows, columns = (slice(part.start * self.cell, part.stop * self.cell) for part in piece.kept)
            with torch.no_grad():
                decoded = self.decode(latents[(..., *piece.seen)])
            large[:, :, rows, columns] = decoded[(..., *piece.inner(self.cell))]
        large.requires_grad_()
        with torch.enable_grad():
            picture = self._shrunk(large)

        def pull(gradient: Tensor) -> Tensor:
            (wished,) = torch.autograd.grad(picture, large, gradient)
            found = torch.zeros_like(latents)
            for piece in pieces:
                rows, columns = (slice(part.start * self.cell, part.stop * self.cell) for part in piece.kept)
                with torch.enable_grad():
                    leaf = latents[(..., *piece.seen)].detach().requires_grad_()
                    decoded = self.decode(leaf)[(..., *piece.inner(self.cell))]
                found[(..., *piece.seen)] += torch.autograd.grad(
                    decoded, leaf, wished[:, :, rows, columns].to(decoded)
                )[0]
            return found

        return picture.detach(), pull

    def _shrunk(self, large: Tensor) -> Tensor:
        height, width = self.size
        return resize_signed(large[..., :height, :width].float(), height=self.source[0], width=self.source[1])

    def _pieces(self, height: int, width: int) -> Iterator[Piece]:
        for top, bottom in spans(height, self.piece):
            for left, right in spans(width, self.piece):
                seen = (
                    slice(max(0, top - MARGIN), min(height, bottom + MARGIN)),
                    slice(max(0, left - MARGIN), min(width, right + MARGIN)),
                )
                yield Piece(seen, (slice(top, bottom), slice(left, right)))


def spans(side: int, most: int) -> list[tuple[int, int]]:
    """Nearly equal parts of a side, none longer than ``most``."""
    count = -(-side // most)
    edges = [side * number // count for number in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))
