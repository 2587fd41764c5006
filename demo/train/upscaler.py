"""The first enlargement: a network of Real-ESRGAN's compact form that enlarges photographs twofold.

It learns to come near to the true picture, not to look sharp: most sources are the picture shrunk and no more, as a photograph
from a camera is when it is shown small. The others are blurred, noisy or compressed beforehand, lightly, so that it leaves JPEG's
blocks and noise as they are or weaker.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...files.pixels import resize
from ...hosts.diffusers.compact import Compact
from ...training.data.degrade import blur, compressed
from .. import UPSCALER
from .muon import optimizers
from .pictures import Pictures, held_out, psnr
from .speed import autocast
from .task import log, train_for, write

WIDTH, CONVS, SCALE = 48, 8, 2
SIDE, COUNT = 96, 16  # px of true crops, and how many are in a batch
ZOOM = (0.9, 4.0)  # mostly above 1: shrunk photographs are sharp to the pixel
CLEAN = 0.7  # share of the sources that are shrunk and no more
BLUR, NOISE, QUALITY = (0.2, 0.7), (0.0, 0.02), (60, 96)  # of the others: px of the source, share of white, JPEG's


def train(*, minutes: float, seed: int, folder: Path | None = None) -> None:
    """Trains for `minutes` and writes UPSCALER now and then and at the end."""
    torch.manual_seed(seed)
    pictures = Pictures(seed=seed, worlds=0)
    network = started().to(memory_format=torch.channels_last)

    def batch(share: float) -> tuple[Tensor, Tensor]:
        true = turned(pictures.crops(COUNT, side=SIDE, zoom=ZOOM))
        return torch.cat([spoilt(one[None]) for one in true]), true

    def loss(pair: tuple[Tensor, Tensor]) -> Tensor:
        source, true = pair
        with autocast():
            found = network(source.to(memory_format=torch.channels_last))
        return ((found.float() - true).square() + 1e-6).sqrt().mean()  # Charbonnier's: flat at 0, else absolute

    def export(steps: int, loss: float) -> None:
        write(UPSCALER, network.state_dict(), steps=steps, seed=seed)
        log.info("upscaler: %d steps, loss %.5f, %s", steps, loss, report(network))

    train_for(
        network,
        optimizers(network, lr=4e-3),
        batch=batch,
        loss=loss,
        write=export,
        minutes=minutes,
        seed=seed,
        folder=folder,
    )


def started() -> Compact:
    """It lets its source through all layers and adds nothing, which it learns from sooner than from torch's own start."""
    network = Compact(width=WIDTH, convs=CONVS, scale=SCALE)
    convolutions = [layer for layer in network.body if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for layer in convolutions:
            layer.weight.mul_(0.5).add_(nn.init.dirac_(torch.empty_like(layer.weight)))
            layer.bias.zero_()
        convolutions[-1].weight.zero_()
    return network


def turned(pixels: Tensor) -> Tensor:
    """[B, 3, S, S], all upside down or on their side, or not, by torch's generator."""
    down, side = (torch.rand(2) < 0.5).tolist()
    pixels = pixels.flip(2) if down else pixels
    return pixels.mT.contiguous() if side else pixels


def spoilt(true: Tensor) -> Tensor:
    """[1, 3, H, W] -> a source of half its size, by torch's generator."""
    rng = np.random.default_rng(torch.randint(2**31, (2,)).tolist())
    clean = rng.random() < CLEAN
    blurred = true if clean or rng.random() < 0.5 else blur(true, sigma=SCALE * rng.uniform(*BLUR))
    small = resize(blurred, height=true.shape[2] // SCALE, width=true.shape[3] // SCALE)
    if clean:
        return small
    if rng.random() < 0.5:
        small = (small + rng.uniform(*NOISE) * torch.randn(small.shape)).clamp(0, 1)
    return compressed(small, quality=int(rng.integers(*QUALITY))) if rng.random() < 0.6 else small


@torch.no_grad()
def report(network: nn.Module) -> str:
    """The held-out cat enlarged from half its size."""
    true = held_out()
    height, width = true.shape[2:]
    small = resize(true, height=height // SCALE, width=width // SCALE)
    bicubic = resize(small, height=height, width=width)
    return f"cat {psnr(network(small), true):.2f} dB, bicubic {psnr(bicubic, true):.2f} dB"
