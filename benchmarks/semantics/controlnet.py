"""A tile ControlNet for the demo's FLUX: it is shown the enlarged source, and keeps its layout at a denoise that would lose it.

FLUX stays as it is. The ControlNet sees what an upscaler gets, flat shapes without textures, and learns in windows of a tile's
size where the true picture's noise leads; most windows tell it nothing in words. What it does not see, it cannot give: the
texture, which follows from the whole shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinotile import demo
from dinotile.demo.train import world
from dinotile.demo.train.dino import Shown
from dinotile.demo.train.muon import optimizers
from dinotile.demo.train.speed import autocast
from dinotile.demo.train.task import log, train_for, write
from dinotile.demo.train.vae import encode
from dinotile.files.pixels import resize
from dinotile.files.weights import read_weights
from dinotile.hosts.diffusers.controlnet import control
from dinotile.hosts.diffusers.flux import flux_velocity
from dinotile.hosts.diffusers.load import load_transformer, load_vae
from dinotile.hosts.host import Hint, Text

FILE = Path(__file__).with_name("controlnet.safetensors")
PICTURES, WINDOW, COUNT = 160, 16, 40  # scenes; latent cells of a window's side; windows of a batch
TOLD = 0.3  # share of the windows that come with the names of what is in them
LEAST = 0.3  # of the noise levels: below it FLUX sees the layout by itself


def flat_source(scene: world.Scene, index: int) -> np.ndarray:
    return scene.source()


def new_controlnet(flux: Any, *, layers: int = 1) -> Any:
    """``layers`` double blocks, which begin as FLUX's first and add nothing yet."""
    from diffusers import FluxControlNetModel

    heads = {name: flux.config[name] for name in ("attention_head_dim", "num_attention_heads")}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`FluxPosEmbed` is deprecated")  # diffusers uses its own old name
        return FluxControlNetModel.from_transformer(flux, num_layers=layers, num_single_layers=0, **heads)


def load(flux: Any, path: Path = FILE) -> Any:
    """The trained one. Its file holds what was trained; the rest is FLUX's."""
    tensors = read_weights(path)[0]
    controlnet = new_controlnet(flux, layers=sum(name.endswith("attn.to_q.weight") for name in tensors))
    controlnet.load_state_dict(tensors, strict=False)
    return controlnet.eval().requires_grad_(False)


def train(
    *,
    minutes: float,
    seed: int,
    path: Path = FILE,
    shown: Shown = flat_source,
    begin: Path | None = None,
    from_source: float = 0.0,
    start: tuple[float, float] = (0.2, 0.6),
) -> None:
    """Trains for ``minutes`` (after encoding the scenes) and writes the file. begin: a file to go on from. from_source,
    start: as in ``ConditionSettings`` of an adapter's training."""
    torch.manual_seed(seed)
    flux: Any = load_transformer(demo.FLUX).eval().requires_grad_(False)
    controlnet = (new_controlnet(flux) if begin is None else load(flux, begin)).requires_grad_(False)
    for name, parameter in controlnet.named_parameters():
        parameter.requires_grad_(name.startswith(("transformer_blocks", "controlnet_")))
    scenes = Encoded(PICTURES, seed=seed, shown=shown)

    def loss(batch: tuple[Tensor, Tensor, Text]) -> Tensor:
        clean, shown, text = batch
        time, noise = LEAST + (1 - LEAST) * torch.rand(len(clean)), torch.randn_like(clean)
        begins = torch.rand(len(clean)) < from_source
        starts = torch.where(begins, start[0] + (start[1] - start[0]) * torch.rand(len(clean)), 1.0)
        time = torch.where(begins, starts * torch.rand(len(clean)), time)
        noise = begun(noise, starts, clean=clean, shown=shown)
        return flow_loss(flux, controlnet, noise, time, clean=clean, hint=Hint(shown, 1.0), text=text)

    def written(steps: int, loss: float) -> None:
        export(controlnet, path, steps=steps, seed=seed)
        log.info("controlnet: %d steps, loss %.4f", steps, loss)

    settings = {"minutes": minutes, "seed": seed, "ema": 0.99, "save_every": 10**9}
    train_for(
        controlnet,
        optimizers(controlnet, lr=1e-2),
        batch=lambda share: scenes.batch(),
        loss=loss,
        write=written,
        **settings,
    )


def flow_loss(flux: Any, net: Any, noise: Tensor, time: Tensor, *, clean: Tensor, hint: Hint, text: Text) -> Tensor:
    """Mean squared error of FLUX's velocity with what a ControlNet adds, at noise levels [B]."""
    share = time.view(-1, 1, 1, 1)
    mixed = (1 - share) * clean + share * noise
    with autocast():
        added = control(net, mixed, time, text=text, hint=hint)
        found = flux_velocity(flux, mixed, time, text=text, call=None, added=added)
    return (found.float() - (noise - clean)).square().mean()


def begun(noise: Tensor, starts: Tensor, *, clean: Tensor, shown: Tensor) -> Tensor:
    """Noise [B, 16, h, w] that holds what the source lacks too, so that a row is on the way from the noisy source at its start
    [B] to the picture, as ``make_row`` of an adapter's training has it; at 1 it stays."""
    return noise + (1 / starts - 1).view(-1, 1, 1, 1) * (shown - clean)


def export(controlnet: Any, path: Path, *, steps: int, seed: int) -> None:
    """Writes what was trained of it."""
    names = [name for name, parameter in controlnet.named_parameters() if parameter.requires_grad]
    tensors = {name: tensor for name, tensor in controlnet.state_dict().items() if name in names}
    write(path, tensors, steps=steps, seed=seed, trained_by="benchmarks/semantics/train.py")


class Encoded:
    """Scenes as latents, true and as they are enlarged for FLUX."""

    def __init__(self, count: int, *, seed: int, shown: Shown = flat_source) -> None:
        """shown: the source of a scene by its number."""
        rng, vae = np.random.default_rng((seed, 5)), load_vae(demo.VAE)
        self.true, self.shown, self.labels = [], [], []
        for index in range(count):
            scene = world.scene(rng)
            source, true = (
                torch.from_numpy(each).permute(2, 0, 1)[None].float() for each in (shown(scene, index), scene.true())
            )
            with torch.no_grad(), autocast():
                larger = resize(source, height=world.SIDE, width=world.SIDE)
                self.true.append(encode(vae, true).float()[0])
                self.shown.append(encode(vae, larger).float()[0])
            self.labels.append(scene.labels()[4::8, 4::8])

    def batch(self) -> tuple[Tensor, Tensor, Text]:
        """Windows [B, 16, WINDOW, WINDOW] of both, and what is told of them."""
        true, shown, words, pooled = [], [], [], []
        for index, window in self.windows(WINDOW, count=COUNT):
            true.append(self.true[index][window])
            shown.append(self.shown[index][window])
            seen = world.present(self.labels[index][window]) if torch.rand(()) < TOLD else []
            words.append(world.caption(seen))
            pooled.append(world.pooled_caption(seen))
        text = Text(*(torch.from_numpy(np.stack(arrays)) for arrays in (words, pooled)))
        return torch.stack(true), torch.stack(shown), text

    def windows(self, side: int, *, count: int) -> Iterator[tuple[int, Any]]:
        """Scenes and windows in them of ``side`` latent cells, at random."""
        free = (world.SIDE // 8 - side) // 2
        for index in torch.randint(len(self.true), (count,)).tolist():
            top, left = (2 * torch.randint(free + 1, ()).item() for _ in range(2))
            yield index, (..., slice(top, top + side), slice(left, left + side))
