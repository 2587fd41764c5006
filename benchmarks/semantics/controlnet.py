"""A tile ControlNet for the demo's FLUX: it is shown the enlarged source, and keeps its layout at a denoise that would lose it.

FLUX stays as it is. The ControlNet sees what an upscaler gets, flat shapes without textures, and learns in windows of a tile's
size where the true picture's noise leads; most windows tell it nothing in words. What it does not see, it cannot give: the
texture, which follows from the whole shape.

A second one could know: it is larger, sees whole pictures in four of seven batches and tiles in the others, and its blocks are
told what each place is (a linear map of their tokens has to name the texture).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm

from dinotile import demo
from dinotile.demo.train import world
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

TOLD = 0.3  # share of the windows that come with the names of what is in them
LEAST = 0.3  # of the noise levels: below it FLUX sees the layout by itself
TOKENS_PER_BATCH = 2560
NAMING = 0.3  # weight of the naming of textures beside the velocity


@dataclass(frozen=True)
class Kind:
    """blocks: how many double and single ones. sides: of the windows of batches, in latent cells. scenes: that are encoded.
    named: whether the blocks learn to name textures too."""

    file: Path
    blocks: tuple[int, int]
    sides: tuple[int, ...]
    scenes: int
    named: bool


TILES = Kind(Path(__file__).with_name("controlnet.safetensors"), (1, 0), (16,), 160, named=False)
WHOLE = Kind(
    Path(__file__).with_name("controlnet_whole.safetensors"), (2, 1), (48, 48, 48, 40, 16, 16, 8), 600, named=True
)


def new_controlnet(flux: Any, blocks: tuple[int, int]) -> Any:
    """Double and single blocks, which begin as FLUX's first and add nothing yet."""
    from diffusers import FluxControlNetModel

    sizes = {name: flux.config[name] for name in ("attention_head_dim", "num_attention_heads")}
    sizes |= dict(zip(("num_layers", "num_single_layers"), blocks, strict=True))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`FluxPosEmbed` is deprecated")  # diffusers uses its own old name
        return FluxControlNetModel.from_transformer(flux, **sizes)


def load(flux: Any, kind: Kind = TILES) -> Any:
    """The trained one. Its file holds what was trained; the rest is FLUX's."""
    controlnet = new_controlnet(flux, kind.blocks)
    controlnet.load_state_dict(read_weights(kind.file)[0], strict=False)
    return controlnet.eval().requires_grad_(False)


class Learner(nn.Module):
    """The ControlNet, and for the last block of each sort a linear map of its image tokens to the textures."""

    def __init__(self, flux: Any, blocks: tuple[int, int]) -> None:
        super().__init__()
        self.controlnet = new_controlnet(flux, blocks).requires_grad_(False)
        for name, parameter in self.controlnet.named_parameters():
            parameter.requires_grad_(
                name.startswith(("transformer_blocks", "single_transformer_blocks", "controlnet_"))
            )
        lists = (self.controlnet.transformer_blocks, self.controlnet.single_transformer_blocks)
        self.last = [each[-1] for each in lists if len(each)]
        self.maps = nn.ModuleList(nn.Linear(128, world.GROUND + 1) for _ in self.last)
        self.tokens: list[Tensor] = []
        for block in self.last:
            block.register_forward_hook(lambda block, given, found: self.tokens.append(found[1]))

    def naming(self, labels: Tensor) -> Tensor:
        """How far the maps are from the labels [B, N], by the tokens of the call since the last time."""
        tokens, self.tokens = self.tokens, []
        found = [read(layer_norm(each.float(), each.shape[-1:])) for read, each in zip(self.maps, tokens, strict=True)]
        return sum((cross_entropy(each.flatten(0, 1), labels.flatten()) for each in found), torch.zeros(()))


def train(*, minutes: float, seed: int, kind: Kind = TILES, folder: Path | None = None) -> None:
    """Trains for ``minutes`` (after encoding the scenes) and writes the file. folder: for checkpoints."""
    torch.manual_seed(seed)
    flux: Any = load_transformer(demo.FLUX).eval().requires_grad_(False)
    learner = Learner(flux, kind.blocks)
    learner.maps.requires_grad_(kind.named)
    scenes = Encoded(kind.scenes, sides=kind.sides, seed=seed)

    def loss(batch: Batch) -> Tensor:
        clean = batch.true
        time, noise = LEAST + (1 - LEAST) * torch.rand(len(clean)), torch.randn_like(clean)
        share = time.view(-1, 1, 1, 1)
        mixed = (1 - share) * clean + share * noise
        with autocast():
            added = control(learner.controlnet, mixed, time, text=batch.text, hint=Hint(batch.shown, 1.0))
            found = flux_velocity(flux, mixed, time, text=batch.text, call=None, added=added)
        named = learner.naming(batch.labels)
        return (found.float() - (noise - clean)).square().mean() + NAMING * kind.named * named

    def export(steps: int, loss: float) -> None:
        controlnet = learner.controlnet
        names = [name for name, parameter in controlnet.named_parameters() if parameter.requires_grad]
        tensors = {name: tensor for name, tensor in controlnet.state_dict().items() if name in names}
        write(kind.file, tensors, steps=steps, seed=seed, trained_by="benchmarks/semantics/train.py")
        log.info("%s: %d steps, loss %.4f", kind.file.stem, steps, loss)

    train_for(
        learner,
        optimizers(learner, lr=1e-2),
        batch=lambda share: scenes.batch(),
        loss=loss,
        write=export,
        minutes=minutes,
        seed=seed,
        folder=folder,
        ema=0.99,
        save_every=250 if folder else 10**9,
    )


@dataclass(frozen=True)
class Batch:
    """Windows [B, 16, h, w] of true and shown latents, what is told of them, and the texture of every token [B, N]."""

    true: Tensor
    shown: Tensor
    text: Text
    labels: Tensor


class Encoded:
    """Scenes as latents, true and as they are enlarged for FLUX."""

    def __init__(self, count: int, *, sides: Sequence[int], seed: int) -> None:
        rng, vae, self.sides = np.random.default_rng((seed, 5)), load_vae(demo.VAE), sides
        self.true, self.shown, self.labels = [], [], []
        for _ in range(count):
            scene = world.scene(rng)
            flat, true = (
                torch.from_numpy(each).permute(2, 0, 1)[None].float() for each in (scene.source(), scene.true())
            )
            with torch.no_grad(), autocast():
                larger = resize(flat, height=world.SIDE, width=world.SIDE)
                self.true.append(encode(vae, true).float()[0])
                self.shown.append(encode(vae, larger).float()[0])
            self.labels.append(scene.labels()[4::8, 4::8])

    def batch(self) -> Batch:
        """Windows of one of the sides."""
        true, shown, words, pooled, labels = [], [], [], [], []
        side = self.sides[torch.randint(len(self.sides), ()).item()]
        free = (world.SIDE // 8 - side) // 2
        for index in torch.randint(len(self.true), (TOKENS_PER_BATCH * 4 // side**2,)).tolist():
            top, left = (2 * torch.randint(free + 1, ()).item() for _ in range(2))
            window = (..., slice(top, top + side), slice(left, left + side))
            true.append(self.true[index][window])
            shown.append(self.shown[index][window])
            seen = world.present(self.labels[index][window]) if torch.rand(()) < TOLD else []
            words.append(world.caption(seen))
            pooled.append(world.pooled_caption(seen))
            labels.append(torch.from_numpy(self.labels[index][window][::2, ::2].flatten()))
        text = Text(*(torch.from_numpy(np.stack(arrays)) for arrays in (words, pooled)))
        return Batch(torch.stack(true), torch.stack(shown), text, torch.stack(labels))
