"""The toy FLUX: the real architecture at width 128, trained by flow matching on the demo VAE's latents.

x_t = (1 - t) x0 + t eps, target v = eps - x0, t in 0..1 (FluxPipeline's timestep / 1000). Text is always empty (zeros):
the toy has no language. t below 0.6 comes three times as often as above, because upscaling starts there.
"""

import json
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from . import FLUX, VAE
from .muon import optimizers
from .pictures import Pictures, held_out, psnr, soft_copy
from .schedule import Average, Clock, descend, log, write
from .train_vae import decode, encode, load_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"
GEOMETRY = {"num_layers": 3, "num_single_layers": 6, "num_attention_heads": 1, "attention_head_dim": 128}
BANK_SIDE = 320  # px of an encoded crop; batches are cut out of these
GRIDS = ((16, 16), (16, 16), (16, 12), (12, 16), (8, 8), (8, 16), (20, 20))  # tokens (rows, columns), 16 px each
TOKENS_PER_BATCH = 2560


def train(*, minutes: float, seed: int, bank_size: int = 400, resume: bool = False) -> None:
    """Trains for `minutes` (after encoding the first crops) and writes FLUX every two minutes and at the end."""
    torch.manual_seed(seed)
    bank = LatentBank(load_vae(VAE), Pictures(seed=seed), size=bank_size)
    flux = load_flux(FLUX).train() if resume else new_flux()
    average = Average(flux, decay=0.998)
    tools = optimizers(flux, lr=1e-3 if resume else 1.5e-3, keep=("context_embedder", "proj_out"))
    clock = Clock(minutes)
    running = 1.0
    for _ in clock.steps(tools):
        loss = _loss(flux, bank.batch())
        descend(flux, loss, tools)
        average.update(flux, step=clock.step)
        running += 0.01 * (loss.item() - running)
        if clock.should_save():
            export(average.module, bank.vae, steps=clock.step, seed=seed, loss=running)
    export(average.module, bank.vae, steps=clock.step, seed=seed, loss=running)


class LatentBank:
    """Encoded random crops, one of which is replaced with every batch: encoding anew each time would cost more than
    the training itself."""

    def __init__(self, vae: nn.Module, pictures: Pictures, *, size: int) -> None:
        self.vae, self.pictures = vae.to(memory_format=torch.channels_last), pictures
        self.latents = torch.cat([self._encode(10) for _ in range(size // 10)])  # [size, 16, 40, 40]

    def batch(self) -> Tensor:
        """Random windows [B, 16, 2 rows, 2 columns] of one of GRIDS; about TOKENS_PER_BATCH tokens."""
        rows, columns = GRIDS[torch.randint(len(GRIDS), ()).item()]
        count, side = TOKENS_PER_BATCH // (rows * columns), self.latents.shape[-1] // 2
        self.latents[torch.randint(len(self.latents), (1,))] = self._encode(1)
        chosen = torch.randint(len(self.latents), (count,)).tolist()
        top = 2 * torch.randint(side - rows + 1, ()).item()
        left = 2 * torch.randint(side - columns + 1, ()).item()
        return self.latents[chosen, :, top : top + 2 * rows, left : left + 2 * columns]

    @torch.no_grad()
    def _encode(self, count: int) -> Tensor:
        pixels = self.pictures.crops(count, height=BANK_SIDE, width=BANK_SIDE, zoom=(0.4, 2.0))
        with torch.autocast("cpu", torch.bfloat16):
            return encode(self.vae, pixels.to(memory_format=torch.channels_last)).float().contiguous()


def new_flux() -> nn.Module:
    """The transformer with every block's modulation and the output at zero, so that it starts as the identity."""
    from diffusers import FluxTransformer2DModel

    flux = FluxTransformer2DModel(in_channels=64, joint_attention_dim=4096, pooled_projection_dim=768, **GEOMETRY)
    for name, parameter in flux.named_parameters():
        if "norm" in name and "linear" in name or name.startswith("proj_out"):
            nn.init.zeros_(parameter)
    return flux


def load_flux(folder: Path) -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel.from_pretrained(folder, torch_dtype=torch.float32).eval()


def velocity(flux: nn.Module, latents: Tensor, time: Tensor, *, text_tokens: int = 8) -> Tensor:
    """v of latents [B, 16, H, W] at times [B] in 0..1, with empty text."""
    count, _, height, width = latents.shape
    rows, columns = height // 2, width // 2
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    flow = flux(
        hidden_states=rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2),
        encoder_hidden_states=latents.new_zeros(count, text_tokens, 4096),
        pooled_projections=latents.new_zeros(count, 768),
        timestep=time,
        img_ids=ids.view(-1, 3),
        txt_ids=torch.zeros(text_tokens, 3),
    ).sample
    return rearrange(flow, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=2, q=2)


@torch.no_grad()
def redraw(flux: nn.Module, latents: Tensor, *, denoise: float = 0.3, steps: int = 6, seed: int = 0) -> Tensor:
    """Img2img: noise to t = `denoise`, then `steps` Euler steps of equal length to 0."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    noisy = (1 - denoise) * latents + denoise * noise
    for step in range(steps):
        time = torch.full((len(latents),), denoise * (1 - step / steps))
        noisy = noisy - denoise / steps * velocity(flux, noisy, time)
    return noisy


def export(flux: nn.Module, vae: nn.Module, *, steps: int, seed: int, loss: float) -> None:
    """Writes the diffusers folder that FluxTransformer2DModel.from_pretrained and ComfyUI's UNETLoader read."""
    write(FLUX / WEIGHTS, dict(flux.state_dict()), steps=steps, seed=seed)
    config = {key: value for key, value in flux.config.items() if not key.startswith("_")}
    about = {"_class_name": "FluxTransformer2DModel", **config}
    (FLUX / "config.json").write_text(json.dumps(about, indent=2) + "\n")
    log.info("flux: %d steps, loss %.4f, %s", steps, loss, report(flux, vae))


@torch.no_grad()
def report(flux: nn.Module, vae: nn.Module) -> str:
    """The held-out cat, bicubic 2x, then redrawn: PSNR to the true picture at some strengths, and of a 256-px tile."""
    true = held_out()
    soft = soft_copy(true)
    latents = encode(vae, soft)
    parts = [f"bicubic {psnr(soft, true):.2f} dB, VAE only {psnr(decode(vae, latents), true):.2f} dB"]
    parts += [f"t {t}: {psnr(decode(vae, redraw(flux, latents, denoise=t)), true):.2f} dB" for t in (0.2, 0.3, 0.5)]
    tile = (..., slice(16, 272), slice(96, 352))
    drawn = decode(vae, redraw(flux, encode(vae, soft[tile])))
    return ", ".join([*parts, f"tile {psnr(drawn, true[tile]):.2f} (bicubic {psnr(soft[tile], true[tile]):.2f}) dB"])


def _loss(flux: nn.Module, clean: Tensor) -> Tensor:
    count = len(clean)
    time = torch.rand(count) * torch.where(torch.rand(count) < 0.6, 0.6, 1.0)
    noise = torch.randn_like(clean)
    share = time.view(-1, 1, 1, 1)
    text_tokens = [1, 8, 8, 16, 64][torch.randint(5, ()).item()]
    with torch.autocast("cpu", torch.bfloat16):
        found = velocity(flux, (1 - share) * clean + share * noise, time, text_tokens=text_tokens)
    return (found.float() - (noise - clean)).square().mean()
