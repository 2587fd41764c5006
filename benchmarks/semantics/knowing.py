"""A tile ControlNet that could know: it learns on whole pictures too, and by itself, that shapes have textures.

Few noise levels ask for that knowledge, so that flow matching alone hardly teaches it. First, without FLUX, the ControlNet is
asked of pure noise and the source how the true picture looks around every token beyond its source: how strong each latent channel
is, and how like its neighbours. No phase of a texture is in that, so the shape alone can tell it; nobody names a shape or a
texture. Then it learns as the other ControlNet does, mostly at the noise levels where knowing helps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinotile import demo
from dinotile.demo.train.muon import optimizers
from dinotile.demo.train.speed import autocast
from dinotile.demo.train.task import log, train_for
from dinotile.flux_patch.geometry import geometry_of
from dinotile.hosts.diffusers.controlnet import control
from dinotile.hosts.diffusers.flux import flux_velocity
from dinotile.hosts.diffusers.load import load_transformer
from dinotile.hosts.host import Hint, Text

from .controlnet import Encoded, export, new_controlnet

FILE = Path(__file__).with_name("knowing.safetensors")
LAYERS, SCENES = 3, 340  # double blocks; encoded scenes
SIDES = (8, 16, 16, 48, 48)  # latent cells of a batch's windows: tiles of 64 and 128 px, whole pictures
TOKENS = 1728  # of a batch
FIRST = 0.25  # share of the minutes without FLUX
BLIND = 0.9  # the least noise level there
OFTEN, KNOWS, LEAST = (
    0.7,
    0.7,
    0.3,
)  # this share of the windows is as noisy as KNOWS at least; the others lie below, from LEAST
WEIGHT = 0.1  # of the looks while FLUX draws
NEAR = 5  # latent cells over which looks are averaged
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to the neighbours that channels are compared with
FAINT = 0.05  # added to energies


class Knower(nn.Module):
    """The ControlNet, and heads that read looks off the image tokens of its second and third block."""

    def __init__(self, flux: Any, *, looks: int) -> None:
        super().__init__()
        self.controlnet = new_controlnet(flux, layers=LAYERS).requires_grad_(False)
        for name, parameter in self.controlnet.named_parameters():
            of_text = "context" in name or "add_" in name  # no words are learned here
            parameter.requires_grad_(name.startswith(("transformer_blocks", "controlnet_")) and not of_text)
        self.controlnet.controlnet_x_embedder.weight.data.copy_(flux.x_embedder.weight)
        width = flux.inner_dim
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, looks)) for _ in range(1, LAYERS)
        )
        self.tokens: dict[int, Tensor] = {}
        for index, block in enumerate(self.controlnet.transformer_blocks):
            block.register_forward_hook(lambda block, given, found, index=index: self.tokens.update({index: found[1]}))

    def looks(self) -> list[Tensor]:
        """Of the last call [B, N, looks], for each head."""
        return [head(self.tokens[index].float()) for index, head in enumerate(self.heads, 1)]


class Looks(Encoded):
    """Scenes as latents, and of every token how it looks [looks, h / 2, w / 2] and how much that counts [1, h / 2, w / 2]: as
    much as the picture has beyond its source there."""

    def __init__(self, count: int, *, seed: int) -> None:
        super().__init__(count, seed=seed)
        found = [looks(true - shown) for true, shown in zip(self.true, self.shown, strict=True)]
        self.counts = [each.clamp(max=1) for _, each in found]
        counts, kinds = torch.stack(self.counts), torch.stack([each for each, _ in found])
        mean = (kinds * counts).sum((0, 2, 3), keepdim=True) / counts.sum()
        spread = ((kinds - mean).square() * counts).sum((0, 2, 3), keepdim=True) / counts.sum()
        self.looks = list(((kinds - mean) / spread.sqrt()).clamp(-3, 3))

    def looked(self) -> tuple[Tensor, ...]:
        """Windows of one of SIDES: true and shown [B, 16, side, side], looks [B, N, looks] and what they count [B, N, 1]."""
        side = SIDES[torch.randint(len(SIDES), ()).item()]
        windows = list(self.windows(side, count=4 * TOKENS // side**2))
        small = [(index, (..., *(slice(w.start // 2, w.stop // 2) for w in window[1:]))) for index, window in windows]
        true, shown = (torch.stack([each[i][w] for i, w in windows]) for each in (self.true, self.shown))
        found = (torch.stack([each[i][w] for i, w in small]) for each in (self.looks, self.counts))
        return true, shown, *(each.flatten(2).mT for each in found)


def looks(beyond: Tensor) -> tuple[Tensor, Tensor]:
    """Of latents [16, h, w], the true ones less the source's: for every token the logarithm of each channel's energy near it and
    its likeness to its neighbours in four directions [80, h / 2, w / 2], and the mean energy [1, h / 2, w / 2]."""

    def near(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[None], NEAR, 1, NEAR // 2, count_include_pad=False)[0]

    energy = near(beyond.square())
    mean = energy.mean(0, keepdim=True)
    alike = [near(beyond * beyond.roll(step, (1, 2))) / (mean + FAINT) for step in STEPS]
    return F.avg_pool2d(torch.cat([(energy + FAINT).log(), *alike]), 2), F.avg_pool2d(mean, 2)


def train(*, minutes: float, seed: int, path: Path = FILE, save_every: int = 10**9) -> None:
    """Trains for ``minutes`` (after encoding the scenes) and writes the file."""
    torch.manual_seed(seed)
    flux: Any = load_transformer(demo.FLUX).eval().requires_grad_(False)
    scenes = Looks(SCENES, seed=seed)
    knower = Knower(flux, looks=len(scenes.looks[0]))
    settings: dict[str, Any] = {
        "batch": lambda share: scenes.looked(),
        "seed": seed,
        "ema": 0.99,
        "save_every": save_every,
    }
    empty = Text.empty(geometry_of(flux))

    def blind(batch: tuple[Tensor, ...]) -> Tensor:
        true, shown, *asked = batch
        time = BLIND + (1 - BLIND) * torch.rand(len(true))
        with autocast():
            control(knower.controlnet, noised(true, time)[0], time, text=empty, hint=Hint(shown, 1.0))
        return apart(knower.looks(), *asked)

    def drawing(batch: tuple[Tensor, ...]) -> Tensor:
        true, shown, *asked = batch
        often = torch.rand(len(true)) < OFTEN
        least, most = torch.where(often, KNOWS, LEAST), torch.where(often, 1.0, KNOWS)
        time = least + (most - least) * torch.rand(len(true))
        mixed, noise = noised(true, time)
        with autocast():
            added = control(knower.controlnet, mixed, time, text=empty, hint=Hint(shown, 1.0))
            found = flux_velocity(flux, mixed, time, text=empty, call=None, added=added)
        return (found.float() - (noise - true)).square().mean() + WEIGHT * apart(knower.looks(), *asked)

    def write(steps: int, loss: float) -> None:
        export(knower.controlnet, path, steps=steps, seed=seed)
        log.info("knowing: %d steps, loss %.4f", steps, loss)

    heads = knower.controlnet.controlnet_blocks.requires_grad_(False)  # nobody listens yet
    told = {
        "minutes": FIRST * minutes,
        "write": lambda steps, loss: log.info("looks: %d steps, loss %.4f", steps, loss),
    }
    train_for(knower, optimizers(knower, lr=1e-2), loss=blind, **settings, **told)
    heads.requires_grad_(True)
    told = {"minutes": (1 - FIRST) * minutes, "write": write}
    train_for(knower, optimizers(knower, lr=1e-2), loss=drawing, **settings, **told)


def noised(clean: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [B, 16, h, w] at noise levels [B], and the noise."""
    noise, share = torch.randn_like(clean), time.view(-1, 1, 1, 1)
    return (1 - share) * clean + share * noise, noise


def apart(found: list[Tensor], asked: Tensor, counts: Tensor) -> Tensor:
    """Mean square of the looks' errors, 1 for who knows nothing, over heads and by what places count."""
    return (
        sum(((each - asked).square().mean(-1, keepdim=True) * counts).sum() for each in found)
        / counts.sum()
        / len(found)
    )
