"""The last polish: the VAE's decoder learns to draw pictures from latents as FLUX leaves them, not only from its encoder's.

Encoder and FLUX stay as they are, so every latent keeps its meaning. The file is written once, at the end: a decoder that
was polished halfway should not be polished again.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ...hosts.diffusers.load import load_transformer, load_vae
from .. import FLUX, VAE
from .flux import redraw, report
from .muon import optimizers
from .pictures import Pictures
from .speed import autocast
from .task import log, train_for
from .vae import decode, difference, encode, export

SIDE, COUNT = 128, 6  # px and number of pictures in a batch
CLEAN = 0.3  # share of the pictures that are decoded as they were encoded
MOST = 0.45  # the others are redrawn from at most this t


def train(*, minutes: float, seed: int, folder: Path | None = None) -> None:
    """Trains for `minutes` and writes VAE at the end."""
    torch.manual_seed(seed)
    pictures, flux = Pictures(seed=seed), load_transformer(FLUX)
    vae = load_vae(VAE).to(memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)

    def loss(pixels: Tensor) -> Tensor:
        with autocast():
            again = decode(vae, _latents(flux, vae, pixels))
        return difference(again.float(), pixels)

    def write(steps: int, loss: float) -> None:
        export(vae, steps=steps, seed=seed)
        log.info("decoder: %d steps, %s", steps, report(flux, vae))

    train_for(
        vae,
        optimizers(vae.decoder, lr=5e-4),
        batch=lambda share: pictures.crops(COUNT, side=SIDE).to(memory_format=torch.channels_last),
        loss=loss,
        write=write,
        minutes=minutes,
        seed=seed,
        folder=folder,
        save_every=10**9,
    )


@torch.no_grad()
def _latents(flux: nn.Module, vae: nn.Module, pixels: Tensor) -> Tensor:
    latents = encode(vae, pixels)
    drawn = torch.rand(len(pixels)) >= CLEAN
    if drawn.any():
        steps, seed = torch.randint(1, 7, ()).item(), torch.randint(2**31, ()).item()
        denoise = MOST * torch.rand(()).item()
        latents[drawn] = redraw(flux, latents[drawn].float(), denoise=denoise, steps=steps, seed=seed).to(latents.dtype)
    return latents
