"""The toy FLUX: the real architecture at width 128, trained by flow matching on the demo VAE's latents.

x_t = (1 - t) x0 + t eps, target v = eps - x0, t in 0..1 (FluxPipeline's timestep / 1000). The toy knows eight words, the
names of the world's textures: most windows of the world come with the names of what is in them, as tokens or as a pooled
vector or both. Everything else has empty text (zeros).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...flux_patch.geometry import geometry_of
from ...hosts.diffusers.compiled import OrEager, compile_blocks, uncompile
from ...hosts.diffusers.flux import flux_velocity
from ...hosts.diffusers.load import load_vae
from ...hosts.host import Text
from ...upscaling.joint import seeded_noise
from .. import FLUX, VAE
from . import world
from .muon import optimizers
from .pictures import Pictures, held_out, psnr, soft_copy
from .speed import autocast
from .task import log, train_for, write
from .vae import decode, encode

Velocity = Callable[..., Tensor]  # as flux_velocity
WEIGHTS = "diffusion_pytorch_model.safetensors"
# What differs from FLUX.1, whose sizes are diffusers' defaults
GEOMETRY = {"num_layers": 3, "num_single_layers": 6, "num_attention_heads": 1, "attention_head_dim": 128}
BANK_SIZE, BANK_SIDE = 300, world.SIDE  # number and px of the encoded pictures; batches are cut out of these
# Windows in tokens (rows, columns) of 16 px. The benchmark's tiles are 8 x 8, the demo's 16 x 16.
GRIDS = (*[(8, 8)] * 6, (16, 16), (16, 16), (24, 24))
TOKENS_PER_BATCH = 2560
FRESH_EVERY = 8
WORLDS = 0.75  # share of the bank
# Muon's steps have one length: in the shipped FLUX no unit of the time's SiLU is above -10 where noise leads
SLOW = ("time_text_embed",)
TEXT, POOLED = 0.65, 0.4  # shares of the world's windows that come with text, and with a pooled vector


def train(*, minutes: float, seed: int, compiled: bool = False, folder: Path | None = None) -> None:
    """Trains for `minutes` (after encoding the first pictures) and writes FLUX now and then and at the end. A run that goes
    on from `folder` fills its bank anew."""
    torch.manual_seed(seed)
    bank = LatentBank(load_vae(VAE), Pictures(seed=seed, worlds=0), size=BANK_SIZE, seed=seed)
    learn(new_flux(), bank, FLUX, minutes=minutes, seed=seed, compiled=compiled, folder=folder)


def learn(
    flux: Any,
    bank: LatentBank,
    written: Path,
    *,
    minutes: float,
    seed: int,
    compiled: bool = False,
    folder: Path | None = None,
) -> None:
    """Trains on a bank, and writes the folder ``written``."""
    velocity = _compiled(flux) if compiled else flux_velocity
    train_for(
        flux,
        optimizers(flux, lr=1e-2, keep=("context_embedder", "proj_out"), slow=SLOW),
        batch=lambda share: bank.batch(),
        loss=lambda windows: _loss(velocity, flux, windows),
        write=lambda steps, loss: export(flux, bank.vae, written, steps=steps, seed=seed, loss=loss),
        minutes=minutes,
        seed=seed,
        folder=folder,
    )


@dataclass(frozen=True)
class Windows:
    """latents [B, 16, h, w]; a text for each; photos [B] bool: windows not of the world."""

    latents: Tensor
    text: Text
    photos: Tensor


class LatentBank:
    """Encoded pictures, one of which is replaced with every FRESH_EVERY-th batch: encoding anew each time would cost more
    than the training itself."""

    def __init__(
        self,
        vae: nn.Module,
        pictures: Pictures | None,
        *,
        size: int,
        seed: int,
        draw: Callable[[np.random.Generator], world.Scene] = world.scene,
    ) -> None:
        """pictures: None for scenes only, which ``draw`` draws."""
        self.vae, self.pictures, self.draw = vae.to(memory_format=torch.channels_last), pictures, draw
        self.rng = np.random.default_rng((seed, 2))
        self.worlds = size if pictures is None else int(WORLDS * size)  # the first ones are of the world
        cells = BANK_SIDE // 8
        self.latents = torch.empty(size, 16, cells, cells)
        self.textures = np.full((size, cells, cells), world.GROUND)
        self.batches = 0
        for index in range(size):
            self._fill(index)

    def batch(self) -> Windows:
        """Random windows of one of GRIDS; about TOKENS_PER_BATCH tokens."""
        rows, columns = GRIDS[torch.randint(len(GRIDS), ()).item()]
        count, side = TOKENS_PER_BATCH // (rows * columns), BANK_SIDE // 16
        self.batches += 1
        if self.batches % FRESH_EVERY == 0:
            self._fill(torch.randint(len(self.latents), ()).item())
        latents, words, pooled = [], [], []
        chosen = torch.randint(len(self.latents), (count,))
        for index in chosen.tolist():
            top, left = (2 * torch.randint(side - tokens + 1, ()).item() for tokens in (rows, columns))
            window = (slice(top, top + 2 * rows), slice(left, left + 2 * columns))
            latents.append(self.latents[(index, slice(None), *window)])
            seen = world.present(self.textures[index][window])
            words.append(world.caption(seen if torch.rand(()) < TEXT else []))
            pooled.append(world.pooled_caption(seen if torch.rand(()) < POOLED else []))
        text = Text(*(torch.from_numpy(np.stack(arrays)) for arrays in (words, pooled)))
        return Windows(torch.stack(latents), text, chosen >= self.worlds)

    @torch.no_grad()
    def _fill(self, index: int) -> None:
        if self.pictures is None or index < self.worlds:
            scene = self.draw(self.rng)
            pixels = torch.from_numpy(scene.true()).permute(2, 0, 1)[None]
            self.textures[index] = scene.labels()[4::8, 4::8]
        else:
            pixels = self.pictures.crops(1, side=BANK_SIDE, zoom=(0.4, 2.0))
        with autocast():
            self.latents[index] = encode(self.vae, pixels.to(memory_format=torch.channels_last)).float()[0]


def new_flux() -> nn.Module:
    """The transformer with every block's modulation and the output at zero, so that it starts as the identity."""
    from diffusers import FluxTransformer2DModel

    flux = FluxTransformer2DModel(**GEOMETRY)
    for name, parameter in flux.named_parameters():
        if "norm" in name and "linear" in name or name.startswith("proj_out"):
            nn.init.zeros_(parameter)
    return flux


@torch.no_grad()
def redraw(flux: nn.Module, latents: Tensor, *, denoise: float = 0.3, steps: int = 6, seed: int = 0) -> Tensor:
    """Img2img: noise to t = `denoise`, then `steps` Euler steps of equal length to 0."""
    text = Text.empty(geometry_of(flux))
    noisy = (1 - denoise) * latents + denoise * seeded_noise(latents.shape, seed=seed)
    for step in range(steps):
        time = torch.full((len(latents),), denoise * (1 - step / steps))
        noisy = noisy - denoise / steps * flux_velocity(flux, noisy, time, text=text, call=None)
    return noisy


def export(flux: nn.Module, vae: nn.Module, folder: Path, *, steps: int, seed: int, loss: float) -> None:
    """Writes the diffusers folder that FluxTransformer2DModel.from_pretrained and ComfyUI's UNETLoader read."""
    write(folder / WEIGHTS, dict(flux.state_dict()), steps=steps, seed=seed)
    config = {key: value for key, value in flux.config.items() if not key.startswith("_")}
    about = {"_class_name": "FluxTransformer2DModel", **config}
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")
    log.info("flux: %d steps, loss %.4f, %s", steps, loss, report(flux, vae))


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # a shape that is drawn once is not worth a graph
def report(flux: nn.Module, vae: nn.Module) -> str:
    """The held-out cat, bicubic 2x, then redrawn: PSNR to the true picture at some strengths."""
    true = held_out()
    soft = soft_copy(true)
    latents = encode(vae, soft)
    parts = [f"bicubic {psnr(soft, true):.2f} dB, VAE only {psnr(decode(vae, latents), true):.2f} dB"]
    parts += [f"t {t}: {psnr(decode(vae, redraw(flux, latents, denoise=t)), true):.2f} dB" for t in (0.2, 0.3, 0.5)]
    return ", ".join(parts)


def _compiled(flux: Any) -> Velocity:
    """``flux_velocity`` of a FLUX whose blocks are compiled, where they can be."""
    compile_blocks(flux, sites=0, dynamic=False)

    def eager(*arguments: Any, **options: Any) -> Tensor:
        uncompile(flux)
        return flux_velocity(*arguments, **options)

    return OrEager(flux_velocity, eager)


def _loss(velocity: Velocity, flux: nn.Module, windows: Windows) -> Tensor:
    clean = windows.latents
    least, most = torch.where(windows.photos, 0.0, 0.25), torch.where(windows.photos, 0.6, 1.0)
    narrow = torch.rand(len(clean)) < 0.8  # upscaling starts below t 0.6, the world's textures are decided above 0.25
    time = torch.rand(len(clean))
    time = torch.where(narrow, least + (most - least) * time, time)
    noise = torch.randn_like(clean)
    share = time.view(-1, 1, 1, 1)
    with autocast():
        found = velocity(flux, (1 - share) * clean + share * noise, time, text=windows.text, call=None)
    return (found.float() - (noise - clean)).square().mean()
