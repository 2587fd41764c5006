"""Tells pictures from restored ones by a frozen DINO's features (arXiv 2301.09515), augmented as in arXiv 2006.10738."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.perceptual import Maps

HIDDEN = 64  # channels of a head
DRAWS = 7  # numbers that an augmentation takes
SHIFT, CUT = 0.125, 0.3  # of a picture's side: the farthest translation, and the side of what is cut out
BRIGHT, COLOUR, CONTRAST = 0.2, 0.5, 0.3  # half widths of the changes


class Head(nn.Module):
    """Logits of the places of one depth: features [B, h, w, C] -> [B, h * w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, HIDDEN, 1)
        self.near = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.logit = nn.Conv2d(HIDDEN, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        x = F.leaky_relu(self.embed(features.movedim(3, 1)), 0.2)
        return self.logit(x + F.leaky_relu(self.near(x), 0.2)).flatten(1)


class Discriminator(nn.Module):
    """A head for each depth of ``maps``, which stay as they are."""

    def __init__(self, maps: Maps, *, side: int) -> None:
        super().__init__()
        with torch.no_grad():
            depths = maps(torch.zeros(1, 3, side, side))
        self.maps = maps
        self.heads = nn.ModuleList(Head(features.shape[3]) for features in depths)

    def forward(self, pixels: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Logits [B, n], above 0 for what looks true. parameters: in place of its own, by name."""
        features = self.maps(pixels)
        if parameters is None:
            return torch.cat([head(each) for head, each in zip(self.heads, features, strict=True)], dim=1)
        logits = []
        for number, (head, each) in enumerate(zip(self.heads, features, strict=True)):
            prefix = f"heads.{number}."
            own = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
            logits.append(torch.func.functional_call(head, own, (each,)))
        return torch.cat(logits, dim=1)

    def fixed(self) -> dict[str, Tensor]:
        """Its parameters, which what is computed with them does not change."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


def hinge(true: Tensor, found: Tensor) -> Tensor:
    """What the discriminator learns by, [B] of logits [B, n] of pictures and of restored ones."""
    return (F.relu(1 - true) + F.relu(1 + found)).mean(1)


def augmented(pixels: Tensor, draws: Tensor) -> Tensor:
    """Brightness, colour, contrast, a translation and a square cut out, differentiable. pixels: [B, 3, S, S] in 0..1; draws:
    [B, 7] in 0..1, on the CPU."""
    tones = (2 * draws[:, :3].to(pixels) - 1)[..., None, None, None]  # [B, 3, 1, 1, 1] in -1..1
    x = pixels + BRIGHT * tones[:, 0]
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + COLOUR * tones[:, 1])
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (1 + CONTRAST * tones[:, 2])
    return torch.stack([_moved(one, *places) for one, places in zip(x, draws[:, 3:].tolist(), strict=True)]).clamp(0, 1)


def _moved(pixels: Tensor, down: float, right: float, row: float, column: float) -> Tensor:
    """A translation, black where nothing was, then a black square; places in 0..1."""
    side = pixels.shape[-1]
    most, cut = round(SHIFT * side), round(CUT * side)
    padded = F.pad(pixels, (most, most, most, most))
    top, left = (round(2 * most * share) for share in (down, right))
    at = torch.arange(side, device=pixels.device)
    first, start = (round(share * (side - cut)) for share in (row, column))
    hole = ((at >= first) & (at < first + cut))[:, None] & ((at >= start) & (at < start + cut))
    return padded[:, top : top + side, left : left + side].masked_fill(hole, 0)
