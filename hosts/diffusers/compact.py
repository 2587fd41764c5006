"""The form of Real-ESRGAN's small upscalers, in which this package's own is written, too."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Compact(nn.Module):
    """SRVGGNetCompact (Real-ESRGAN, arXiv 2107.10833, and its published files): ``convs`` + 2 convolutions at the source's
    size, PReLU between them, pixel shuffle, and the source's nearest pixels added. Names of tensors are those of the files."""

    def __init__(self, *, width: int, convs: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        layers = [nn.Conv2d(3, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(convs):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 3 * scale**2, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in 0..1 -> [B, 3, scale * H, scale * W], not clamped."""
        detail = F.pixel_shuffle(self.body(pixels), self.scale)
        return detail + F.interpolate(pixels, scale_factor=self.scale, mode="nearest")
