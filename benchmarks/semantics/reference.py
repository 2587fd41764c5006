"""Reference latents in the ControlNet's place: FLUX sees the tile's source as tokens of its own beside those that it draws.

As FLUX.1 Kontext has it (Black Forest Labs 2025): the source's tokens join the image's, at the same places and at 1 on the first
axis of positions, and all of FLUX learns to look at them. So this is another FLUX, a copy of the demo's that went on in tiles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlNetModel
from torch import Tensor

from dinotile import demo
from dinotile.demo.train.flux import export
from dinotile.demo.train.muon import optimizers
from dinotile.demo.train.task import train_for
from dinotile.hosts.diffusers.load import load_transformer, load_vae
from dinotile.hosts.host import Hint, Text

from .controlnet import LEAST, PICTURES, Encoded, flow_loss, new_controlnet

FIRST_AXIS = 1.0  # of the source's positions


class Reference(FluxControlNetModel):
    """Takes a ControlNet's hint and adds nothing to blocks: hooks on ``flux`` show it the hint's tokens."""

    def watch(self, flux: Any) -> Reference:
        self.tokens: Tensor | None = None
        flux.register_forward_pre_hook(self._join, with_kwargs=True)
        flux.register_forward_hook(self._part)
        return self

    def forward(self, *, controlnet_cond: Tensor, **rest: Any) -> tuple[None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.tokens = controlnet_cond
        return None, None

    def _join(self, flux: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if self.tokens is None:
            return None
        image, places = given["hidden_states"], given["img_ids"]
        theirs = places.clone()
        theirs[:, 0] = FIRST_AXIS
        shown = self.tokens.expand(len(image), -1, -1).to(image.dtype)
        joined = {"hidden_states": torch.cat([shown, image], 1), "img_ids": torch.cat([theirs, places])}
        return args, given | joined

    def _part(self, flux: Any, args: Any, found: tuple[Tensor]) -> tuple[Tensor] | None:
        if self.tokens is None:
            return None
        count, self.tokens = self.tokens.shape[1], None
        return (found[0][:, count:],)


def new_reference(flux: Any) -> Reference:
    """A ``Reference`` that watches this FLUX, which it has the sizes of."""
    return Reference.from_config(new_controlnet(flux).config).watch(flux)


def train(*, minutes: float, seed: int, folder: Path) -> None:
    """Trains for ``minutes`` (after encoding the scenes) and writes FLUX's folder."""
    torch.manual_seed(seed)
    flux: Any = load_transformer(demo.FLUX).float().train().requires_grad_(True)
    shown, scenes = new_reference(flux), Encoded(PICTURES, seed=seed)

    def loss(batch: tuple[Tensor, Tensor, Text]) -> Tensor:
        clean, source, text = batch
        time, noise = LEAST + (1 - LEAST) * torch.rand(len(clean)), torch.randn_like(clean)
        return flow_loss(flux, shown, noise, time, clean=clean, hint=Hint(source, 1.0), text=text)

    train_for(
        flux,
        optimizers(flux, lr=1e-2, keep=("context_embedder", "proj_out"), slow=("time_text_embed",)),
        batch=lambda share: scenes.batch(),
        loss=loss,
        write=lambda steps, loss: export(flux, load_vae(demo.VAE), folder, steps=steps, seed=seed, loss=loss),
        minutes=minutes,
        seed=seed,
        ema=0.99,
        save_every=10**9,
    )
