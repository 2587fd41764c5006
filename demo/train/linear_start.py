"""A quick start for the VAE: the same chain of convolutions without the residual blocks, trained alone, then poured in.

Without blocks the coder is linear and about fifteen times cheaper per step. It fits the VAE exactly: every linear
channel h becomes a pair (h, -h), which a ReLU turns into (h+, h-), and the next layer takes the difference. The blocks
start as the identity. So the VAE begins where the linear coder ended.
"""

from functools import partial

import torch
from torch import Tensor, nn

HALF = 32  # linear channels: half of TAESD's 64


class LinearCoder(nn.Module):
    """TAESD's convolutions, HALF channels wide, without blocks and without activations."""

    def __init__(self) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1)
        down = [nn.Conv2d(HALF, HALF, 3, stride=2, padding=1, bias=False) for _ in range(3)]
        grow = [layer for _ in range(3) for layer in (nn.Upsample(scale_factor=2), conv(HALF, HALF, bias=False))]
        self.to_latents = nn.Sequential(conv(3, HALF), *down, conv(HALF, 16))
        self.to_pixels = nn.Sequential(conv(16, HALF), *grow, conv(HALF, 3))
        for parameter in self.parameters():
            if parameter.ndim == 4:
                nn.init.orthogonal_(parameter)

    def encoder(self, pixels: Tensor) -> Tensor:
        """Pixels in -1..1, as diffusers' encoder takes them."""
        return self.to_latents(pixels * 0.5 + 0.5)

    def decoder(self, latents: Tensor) -> Tensor:
        return self.to_pixels(torch.tanh(latents / 3) * 3) * 2 - 1


@torch.no_grad()
def pour(coder: LinearCoder, vae: nn.Module) -> None:
    """Gives the VAE the linear coder's function, exactly."""
    for linear, layers in ((coder.to_latents, vae.encoder.layers), (coder.to_pixels, vae.decoder.layers)):
        sources = [layer for layer in linear if isinstance(layer, nn.Conv2d)]
        targets = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        for index, (source, target) in enumerate(zip(sources, targets, strict=True)):
            weight, last = source.weight, index == len(sources) - 1
            if index > 0:
                weight = torch.cat([weight, -weight], dim=1)
            target.weight.copy_(weight if last else torch.cat([weight, -weight], dim=0))
            if source.bias is not None:
                target.bias.copy_(source.bias if last else torch.cat([source.bias, -source.bias]))
        for block in layers:
            if hasattr(block, "conv"):
                nn.init.zeros_(block.conv[-1].weight)
                nn.init.zeros_(block.conv[-1].bias)
