"""The picture coder: TAESD's architecture with 16 latent channels, trained as a plain autoencoder."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, l1_loss, mse_loss

from ...flux_patch.families import FLUX1
from .. import VAE
from .linear_start import LinearCoder, pour
from .muon import optimizers
from .pictures import Pictures, held_out, psnr, soft_copy
from .speed import autocast
from .task import log, train_for, write

# Spread of the latents (of the linear start's, too), and the most noise they are decoded with. Wide latents lose less
# to FLUX's noise, but the decoder squashes what is beyond 3, which a linear coder cannot undo.
STD, LINEAR_STD, NOISE = 2.5, 1.0, 0.75


def train(*, minutes: float, seed: int, folder: Path | None = None) -> None:
    """Trains for `minutes`, the first quarter on the linear start, and writes VAE now and then and at the end."""
    torch.manual_seed(seed)
    pictures = Pictures(seed=seed)
    vae = started_vae(pictures, minutes=0.25 * minutes, seed=seed, folder=folder and folder / "linear")
    vae = vae.to(memory_format=torch.channels_last)

    def batch(share: float) -> Tensor:
        side, count = (64, 8) if share < 0.5 else (96, 6) if share < 0.85 else (192, 2)
        return pictures.crops(count, side=side).to(memory_format=torch.channels_last)

    train_for(
        vae,
        optimizers(vae, lr=5e-4),
        batch=batch,
        loss=lambda pixels: _loss(vae, pixels),
        write=lambda steps, loss: export(vae, steps=steps, seed=seed),
        minutes=0.75 * minutes,
        seed=seed,
        folder=folder,
    )


def started_vae(pictures: Pictures, *, minutes: float, seed: int, folder: Path | None = None) -> nn.Module:
    """A VAE that begins as the linear coder of `minutes` of training. Without it the held-out cat's
    soft copy was at 33 dB after half an hour on a shared CPU; with it, at 37 dB after 75 seconds."""
    from diffusers import AutoencoderTiny

    coder = LinearCoder().to(memory_format=torch.channels_last)
    train_for(
        coder,
        optimizers(coder, lr=2e-3),
        batch=lambda share: pictures.crops(8, side=64).to(memory_format=torch.channels_last),
        loss=lambda pixels: _loss(coder, pixels, std=LINEAR_STD),
        write=lambda steps, loss: log.info("linear start: %s", report(coder)),
        minutes=minutes,
        seed=seed,
        folder=folder,
        ema=0.0,
        save_every=1000,
    )
    vae = AutoencoderTiny(latent_channels=FLUX1.channels)
    pour(coder, vae)
    widen(vae, pictures)
    return vae


@torch.no_grad()
def widen(vae: nn.Module, pictures: Pictures) -> None:
    """Scales the latents to STD, and the decoder's first layer back; exact for small latents."""
    gain = STD / encode(vae, pictures.crops(16, side=64)).std()
    vae.encoder.layers[-1].weight.mul_(gain)
    vae.encoder.layers[-1].bias.mul_(gain)
    next(layer for layer in vae.decoder.layers if isinstance(layer, nn.Conv2d)).weight.div_(gain)


def encode(vae: nn.Module, pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in 0..1 -> model latents [B, 16, H/8, W/8]."""
    return vae.encoder(pixels * 2 - 1)


def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """The inverse of `encode`; not clamped."""
    return vae.decoder(latents) * 0.5 + 0.5


def export(vae: nn.Module, *, steps: int, seed: int) -> None:
    """Writes the TAESD key layout that ComfyUI's VAELoader reads."""
    state = {_taesd_name(name): value for name, value in vae.state_dict().items()}
    # FLUX's latent format: with it in the file ComfyUI's model latents are the encoder's output, unchanged.
    state |= {"vae_scale": torch.tensor(FLUX1.latent_scale), "vae_shift": torch.tensor(FLUX1.latent_shift)}
    write(VAE, state, steps=steps, seed=seed)
    log.info("vae: %d steps, %s", steps, report(vae))


@torch.no_grad()
def report(vae: nn.Module) -> str:
    """Round trips of the held-out cat and of its soft copy, and the latents' spread."""
    true = held_out()
    soft = soft_copy(true)
    latents = encode(vae, soft)
    sharp_db, soft_db = psnr(decode(vae, encode(vae, true)), true), psnr(decode(vae, latents), soft)
    return f"cat {sharp_db:.2f} dB, soft cat {soft_db:.2f} dB, latent std {latents.std():.2f} mean {latents.mean():.2f}"


def _loss(vae: nn.Module, pixels: Tensor, *, std: float = STD) -> Tensor:
    """Pixels, their gradients at three scales, and a light pull of every latent channel to mean 0 and spread ``std``.

    Most pictures are decoded from noisy latents, as FLUX's are never quite clean: so the coder spends its power on what
    matters most to the eye, and redrawing at t = 0.3 does not cost the picture its detail."""
    with autocast():
        latents = encode(vae, pixels)
        level = NOISE * std / STD * (torch.rand(len(pixels), 1, 1, 1) - 0.2).clamp(min=0)
        again = decode(vae, latents + level * torch.randn_like(latents))
    latents = latents.float()
    spread = (latents.std((0, 2, 3)).clamp(min=1e-3) / std).log().square() + latents.mean((0, 2, 3)).square()
    return difference(again.float(), pixels) + 0.5 * spread.mean()


def difference(again: Tensor, pixels: Tensor) -> Tensor:
    """What the eye minds: pixels, and edges at three scales."""
    return l1_loss(again, pixels) + 4 * mse_loss(again, pixels) + 0.5 * _edges(again, pixels)


def _edges(left: Tensor, right: Tensor) -> Tensor:
    total = left.new_zeros(())
    for _ in range(3):
        total = total + l1_loss(left.diff(dim=2), right.diff(dim=2)) + l1_loss(left.diff(dim=3), right.diff(dim=3))
        left, right = avg_pool2d(left, 2), avg_pool2d(right, 2)
    return total / 3


def _taesd_name(name: str) -> str:
    """decoder.layers.0.weight -> taesd_decoder.1.weight: TAESD counts the decoder's clamp as layer 0."""
    part, _, index, rest = name.split(".", 3)
    return f"taesd_{part}.{int(index) + (part == 'decoder')}.{rest}"
