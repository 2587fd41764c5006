"""The demo's DINO adapter: cross-attention in the frozen toy FLUX, trained on tiles that see only a part of the picture.

Each sample is a picture of 256 px of which FLUX gets one tile of 128 px, while DINO sees the whole picture in the state in
which an upscaler finds it: shrunk and enlarged again. Cases: 10 % without DINO, 10 % with the learned null, else its tokens.
"""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from ..dino.encode import DinoEncoder, EncodeSettings
from ..dino.load import load_dino
from ..flux_patch.adapter import AdapterConfig, DinoAdapter
from ..flux_patch.checkpoint import load_adapter, new_adapter, save_adapter
from ..flux_patch.diffusers_flux import DinoFlux
from ..flux_patch.geometry import RopeOptions, geometry_of, image_ids
from ..flux_patch.rows import DinoRow
from ..flux_patch.schedule import Strength
from . import ADAPTER, DINO, FLUX, VAE
from .pictures import Pictures, held_out, psnr, soft_copy
from .schedule import Average, Clock, descend, log
from .train_flux import load_flux
from .train_vae import decode, encode, load_vae

SIDE, TILE, BATCH = 256, 128, 16
CELL = 8  # px per latent cell
TOKENS = TILE // 16
WITHOUT, NULL = 0.1, 0.1  # shares of the cases


def train(*, minutes: float, seed: int, bank_size: int = 320) -> None:
    """Trains for `minutes` (after encoding the first pictures) and writes the adapter at the end."""
    torch.manual_seed(seed)
    encoder, vae, flux = load_dino(DINO), load_vae(VAE), load_flux(FLUX).requires_grad_(False)
    adapter = demo_adapter(encoder, flux, seed=seed).requires_grad_(True).train()
    dino_flux = DinoFlux(flux, adapter)
    bank = PictureBank(encoder, vae, Pictures(seed=seed), adapter.config.layers, size=bank_size)
    average = Average(adapter, decay=0.995)
    tools: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(adapter.parameters(), lr=3e-3, weight_decay=1e-2, fused=True)
    ]
    clock, running = Clock(minutes), 1.0
    for _ in clock.steps(tools):
        loss = _loss(dino_flux, bank)
        descend(adapter, loss, tools)
        average.update(adapter, step=clock.step)
        running += 0.01 * (loss.item() - running)
        if clock.should_save():
            log.info("adapter: %d steps, loss %.4f", clock.step, running)
    dino_flux.remove()
    finished = average.module.half()
    finished.config.provenance.update(trained_by="demo/train.py", steps=clock.step, seed=seed)
    ADAPTER.parent.mkdir(exist_ok=True)
    save_adapter(finished, ADAPTER, trained=True)
    log.info("adapter: %d steps, loss %.4f, %s", clock.step, running, report(ADAPTER))


def demo_adapter(encoder: DinoEncoder, flux: nn.Module, *, seed: int) -> DinoAdapter:
    geometry = geometry_of(flux)
    config = AdapterConfig(
        dino=encoder.spec.name,
        dino_width=encoder.spec.width,
        layers=EncodeSettings().canonical(encoder.spec),
        geometry=geometry,
        width=64,
        grid=8,
        double_sites=tuple(range(geometry.double_blocks)),
        single_sites=tuple(range(0, geometry.single_blocks, 2)),
    )
    return new_adapter(config, seed=seed)


class PictureBank:
    """Latents of whole pictures and the DINO features of their soft copies; some are replaced with every batch."""

    def __init__(self, encoder: DinoEncoder, vae: nn.Module, pictures: Pictures, layers: str, *, size: int) -> None:
        self.encoder, self.vae, self.pictures, self.settings = encoder, vae, pictures, EncodeSettings(layers=layers)
        made = [self._make(8) for _ in range(size // 8)]
        self.latents = torch.cat([latents for latents, _, _ in made])
        self.patches = torch.cat([patches for _, patches, _ in made])
        self.cls = torch.cat([cls for _, _, cls in made])

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Latents [B, 16, 32, 32], patches [B, h, w, D] and class tokens [B, D] of random pictures."""
        chosen = torch.randint(len(self.latents), (BATCH,))
        replaced = torch.randint(len(self.latents), (1,))
        self.latents[replaced], self.patches[replaced], self.cls[replaced] = self._make(1)
        return self.latents[chosen], self.patches[chosen], self.cls[chosen]

    @torch.no_grad()
    def _make(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        pixels = self.pictures.crops(count, height=SIDE, width=SIDE, zoom=(0.6, 2.0))
        factor = (2, 4)[int(torch.randint(2, ()).item())]
        patches, cls = self.encoder.features(soft_copy(pixels, factor=factor), settings=self.settings)
        return encode(self.vae, pixels), patches, cls


def _loss(dino_flux: DinoFlux, bank: PictureBank) -> Tensor:
    from ..dino.feature_map import FeatureMap

    latents, patches, cls = bank.batch()
    adapter = dino_flux.adapter
    features = FeatureMap(patches, cls, adapter.config.dino, adapter.config.layers, (SIDE, SIDE))
    tokens = adapter.project(features)
    cells, whole = TILE // CELL, SIDE // CELL
    clean, rows = [], []
    for image in range(BATCH):
        top, left = (2 * torch.randint((whole - cells) // 2 + 1, (2,))).tolist()
        clean.append(latents[image, :, top : top + cells, left : left + cells])
        box, case = (top / whole, left / whole, cells / whole, cells / whole), torch.rand(()).item()
        settings = None if case < WITHOUT else Strength(1.0)
        rows.append(DinoRow(None if case < WITHOUT + NULL else tokens, image, box, settings))
    clean = torch.stack(clean)  # [B, 16, 16, 16]
    time = torch.rand(BATCH)
    noise = torch.randn_like(clean)
    share = time.view(-1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = _velocity(dino_flux, (1 - share) * clean + share * noise, time, rows)
    return (found.float() - _pack(noise - clean)).square().mean()


def _velocity(dino_flux: DinoFlux, latents: Tensor, time: Tensor, rows: list[DinoRow]) -> Tensor:
    """Packed velocity [B, N, 64] of tiles [B, 16, 16, 16]."""
    count = len(latents)
    return dino_flux.velocity(
        _pack(latents),
        timestep=time,
        encoder_hidden_states=latents.new_zeros(count, 8, 4096),
        pooled_projections=latents.new_zeros(count, 768),
        img_ids=image_ids(TOKENS, TOKENS, options=RopeOptions()),
        guidance=None,
        rows=rows,
        token_size=(TOKENS, TOKENS),
        percent_to_sigma=lambda percent: 1 - percent,
    )


def _pack(latents: Tensor) -> Tensor:
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


@torch.no_grad()
def report(path: Path) -> str:
    """Error of the predicted velocity on tiles of the held-out cat: without DINO, with its own features, with others'."""
    encoder, vae, flux, adapter = load_dino(DINO), load_vae(VAE), load_flux(FLUX), load_adapter(path).float()
    cat = held_out()[..., :SIDE, 64 : 64 + SIDE]
    other = Pictures(seed=1).crops(1, height=SIDE, width=SIDE)
    latents = encode(vae, cat)
    settings = EncodeSettings(layers=adapter.config.layers)
    dino_flux = DinoFlux(flux, adapter)
    cells, whole = TILE // CELL, SIDE // CELL
    corners = [(top, left) for top in (0, 16) for left in (0, 16)]
    clean = torch.cat([latents[..., t : t + cells, left : left + cells] for t, left in corners])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    parts = []
    for name, picture in (("no DINO", None), ("own", soft_copy(cat)), ("another picture's", soft_copy(other))):
        tokens = None if picture is None else adapter.project(encoder.encode(picture, settings=settings))
        strength = None if picture is None else Strength(1.0)
        rows = [DinoRow(tokens, 0, (t / whole, left / whole, 0.5, 0.5), strength) for t, left in corners]
        errors = []
        for t in (0.3, 0.6, 0.9):
            found = _velocity(dino_flux, (1 - t) * clean + t * noise, torch.full((4,), t), rows)
            errors.append((found - _pack(noise - clean)).square().mean().item())
        parts.append(f"{name} {sum(errors) / len(errors):.4f}")
    return f"velocity error on the cat: {', '.join(parts)}; VAE {psnr(decode(vae, latents), cat):.2f} dB"
