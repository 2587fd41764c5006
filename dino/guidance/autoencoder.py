"""The picture that latents show, at its source's size, and the latents of another picture of that size.

Neither way has a gradient. A change of the picture is brought to the latents by encoding the enlarged source with that change and
without it: the encoder is the decoder's inverse, near enough, where the gradient through a decoder is only its transpose, along
which a step reaches a third of what it aims at (measured with the demo's VAE; the encoder's, all). What the change leaves alone,
all detail beyond the source's size, stays as it is. This is the range and null space of DDNM (arXiv 2212.00490), in latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ...files.pixels import resize_signed

Coded = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Canvas:
    """Where estimates lie. size: height and width in px that the picture has on the canvas, which may be padded beyond it.
    decode: latents [1, C, h, w] of the canvas -> pixels [1, 3, H, W] of all of it, about 0..1. encode: pixels [1, 3, *size],
    which may lie beyond 0..1, -> latents of the canvas."""

    decode: Coded
    encode: Coded
    size: tuple[int, int]

    def shrunk(self, shown: Tensor, *, size: tuple[int, int]) -> Tensor:
        """Pixels [1, 3, H, W] of the canvas, as a picture of a source's height and width."""
        height, width = self.size
        return resize_signed(shown[..., :height, :width], height=size[0], width=size[1])

    def enlarged(self, picture: Tensor) -> Tensor:
        """A picture of a source's size as it lies on the canvas: [1, 3, *size]."""
        return resize_signed(picture, height=self.size[0], width=self.size[1])


@dataclass(eq=False)
class Autoencoder:
    """Of one picture. source: [1, 3, h, w] in 0..1."""

    canvas: Canvas
    source: Tensor
    plain: Tensor = field(init=False)  # latents of the enlarged source

    def __post_init__(self) -> None:
        self.plain = self._latents(self.source)

    def picture(self, latents: Tensor) -> Tensor:
        """[1, C, H, W] -> [1, 3, h, w]."""
        height, width = self.source.shape[-2:]
        return self.canvas.shrunk(self.canvas.decode(latents).to(self.source), size=(height, width))

    def change(self, wish: Tensor) -> Tensor:
        """What a change of the picture [1, 3, h, w] is for its latents."""
        return self._latents(self.source + wish) - self.plain

    def _latents(self, picture: Tensor) -> Tensor:
        return self.canvas.encode(self.canvas.enlarged(picture))
