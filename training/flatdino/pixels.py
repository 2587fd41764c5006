"""``dinotile flatdino train-decoder``: a decoder from restored patches to pixels, by L1, a perceptual distance and a GAN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...dino.compress.checkpoint import LoadedFlat
from ...dino.compress.pixels import PixelConfig, new_pixels, save_pixels
from ...files.pixels import resize
from ...files.progress import Progress
from ..core.config import OptimisationSettings, OutputSettings
from ..core.loop import fit
from ..core.optimiser import autocast
from ..core.output import check_output
from ..core.perceptual import Maps, distance, units
from ..core.random import generator_for, item_at
from ..core.task import Task
from ..core.trainer import Trainer
from .discriminator import DRAWS, Discriminator, augmented, hinge
from .patches import EncodedPatches, split

FILE = "pixels.safetensors"  # in the output folder
NOISE = 0.2  # of the deviation of a VAE's latents, with which it learns to draw
PERCEPTUAL, ADVERSARIAL = 1.0, 0.75  # weights beside L1; the second is of gradients as large as the others'
LARGEST = 1e4  # of the factor that makes them so
SHOWN = 8  # held-out pictures on a sheet
TRIES = 50  # of other pictures where one cannot be used


@dataclass(frozen=True, eq=False)
class PixelRow:
    name: str
    pixels: Tensor  # [3, S, S] in 0..1
    patches: Tensor  # [h, w, D]
    noise: Tensor  # [T, F]
    draws: Tensor  # [2, DRAWS], of the augmentations
    judged: bool  # whether the GAN has begun


class PixelTask(Task):
    """Trains a decoder for ``flat`` on crops of ``data``. maps: for the perceptual distance. gan_from: the step at which the
    discriminator, by ``seen``, begins."""

    measures = ("l1", "perceptual", "gan", "discriminator")

    def __init__(
        self,
        flat: LoadedFlat,
        data: EncodedPatches,
        settings: OptimisationSettings,
        *,
        size: str,
        patch: int,
        maps: Maps,
        seen: Maps,
        gan_from: int,
        path: Path,
        device: torch.device,
    ) -> None:
        grid, width = flat.config.grid, flat.config.width
        config = PixelConfig(flat.fingerprint, (grid[0], grid[1]), width, patch, size)
        self.flat, self.data, self.settings, self.path, self.device = flat, data, settings, path, device
        self.model = new_pixels(config, seed=settings.seed).to(device).train()
        self.maps, self.side, self.gan_from = maps, config.height, gan_from
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)  # of the heads
            self.discriminator = Discriminator(seen, side=self.side).to(device)
        self.train, self.held = split(len(data), seed=settings.seed)
        self.parameters = {
            **{f"decoder.{name}": parameter for name, parameter in self.model.named_parameters()},
            **{f"discriminator.{name}": parameter for name, parameter in self.discriminator.named_parameters()},
        }

    def rows(self, slots: Sequence[int], *, step: int, total: int) -> list[PixelRow]:
        rows, config = [], self.flat.config
        for slot in slots:
            generator = generator_for(self.settings.seed, "row", step, slot)
            draws = torch.rand(4, generator=generator).tolist()
            index = self.train[item_at(step * total + slot, count=len(self.train), seed=self.settings.seed)]
            crop = self.data.crops([index], [draws])[0]
            for _ in range(TRIES):
                if crop is not None:
                    break
                index = self.train[int(torch.randint(len(self.train), (), generator=generator))]
                crop = self.data.crops([index], [draws])[0]
            if crop is None:
                raise ValueError(f"{TRIES} pictures in a row cannot be used ({self.data.skipped}): check the data")
            (patches,) = self.data.encoded([crop])
            assert patches is not None
            noise = torch.randn(config.tokens, config.features, generator=generator)
            shaken = torch.rand(2, DRAWS, generator=generator)
            name, judged = self.data.names[index], step >= self.gan_from
            rows.append(PixelRow(name, self._sized(crop), patches[0], noise, shaken, judged))
        return rows

    def losses(self, rows: Sequence[PixelRow], *, watch: bool) -> dict[str, Tensor]:
        true, patches, noise = (
            torch.stack([getattr(row, name) for row in rows]).to(self.device) for name in ("pixels", "patches", "noise")
        )
        with torch.no_grad():
            restored = self.flat.module.decode(self.flat.module.latents(patches, NOISE * noise).values)
        with autocast(self.settings, device=self.device):
            found = self.model(restored).float()
        l1 = (found - true).abs().mean((1, 2, 3))
        with torch.no_grad():
            wanted = units(self.maps, true)
        perceptual = distance(units(self.maps, found.clamp(0, 1)), wanted) / (2 * len(wanted))  # mean of 1 - cosine
        loss = l1 + PERCEPTUAL * perceptual
        gan = told = torch.zeros_like(loss)
        if rows[0].judged:
            gan, told = self._judged(rows, found, true)
            loss = loss + ADVERSARIAL * self._balance(loss, gan) * gan + told
        measured = {"l1": l1, "perceptual": perceptual, "gan": gan, "discriminator": told}
        return {"loss": loss, **{name: value.detach() for name, value in measured.items()}}

    def _judged(self, rows: Sequence[PixelRow], found: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """How restored pictures look to the discriminator, and what it learns by, [B] each; neither's gradient is the other's."""
        draws = torch.stack([row.draws for row in rows])
        shown = augmented(found.clamp(0, 1), draws[:, 0])
        gan = -self.discriminator(shown, self.discriminator.fixed()).mean(1)
        return gan, hinge(self.discriminator(augmented(true, draws[:, 1])), self.discriminator(shown.detach()))

    def _balance(self, loss: Tensor, gan: Tensor) -> Tensor:
        """The factor that makes the GAN's gradient at the last layer as large as the others' (arXiv 2012.09841)."""
        last = self.model.head.weight
        one, other = (torch.autograd.grad(each.mean(), last, retain_graph=True)[0].norm() for each in (loss, gan))
        return (one / (other + 1e-6)).clamp(max=LARGEST).detach()

    def _sized(self, crop: Tensor) -> Tensor:
        return resize(crop[None].float(), height=self.side, width=self.side)[0]

    def name(self, row: PixelRow) -> str:
        return f"picture {row.name}"

    def details(self) -> dict[str, dict[str, float]]:
        return {"skipped": dict(self.data.skipped)}

    def identity(self) -> dict[str, Any]:
        about = {"decoder": self.model.config.values(), "dino": self.data.made.encoder, "gan from": self.gan_from}
        return {**about, "perceptual": self.maps.fingerprint}

    @torch.no_grad()
    def drawn(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Middles of pictures and what is drawn of them, without noise, [n, 3, S, S] each in 0..1."""
        usable = [crop for crop in self.data.crops(indices) if crop is not None]
        patches = torch.stack([each[0] for each in self.data.encoded(usable) if each is not None]).to(self.device)
        self.model.eval()
        found = self.model(self.flat.module.decode(self.flat.module.encode(patches))).float().clamp(0, 1).cpu()
        self.model.train()
        return torch.stack([self._sized(crop) for crop in usable]), found

    def validate(self) -> dict[str, float]:
        """Of held-out pictures the mean absolute error and the mean PSNR in dB."""
        errors, squares = [], []
        for index in self.held:
            if self.data.crops([index])[0] is not None:
                true, found = self.drawn([index])
                errors.append(float((found - true).abs().mean()))
                squares.append(float(F.mse_loss(found, true).clamp(min=1e-10).log10()))
        if not errors:
            raise ValueError(f"none of the held-out pictures can be used ({self.data.skipped}): check the data")
        return {"l1": sum(errors) / len(errors), "psnr": -10 * sum(squares) / len(squares)}

    def picture(self) -> tuple[Tensor, dict[str, Any]] | None:
        """Held-out pictures above what is drawn of them."""
        shown = [index for index in self.held if self.data.crops([index])[0] is not None][:SHOWN]
        if not shown:
            return None
        true, found = self.drawn(shown)
        return torch.cat([torch.cat(list(rows), dim=2) for rows in (true, found)], dim=1), {}

    def export(self, *, steps: int, rows_per_step: int) -> None:
        about = {"steps": steps, "rows_per_step": rows_per_step, "optimisation": self.settings.model_dump()}
        save_pixels(self.model, self.path, provenance=about)


def train_pixels(
    flat: LoadedFlat,
    data: EncodedPatches,
    *,
    size: str,
    patch: int,
    maps: Maps,
    seen: Maps,
    gan_from: float,
    settings: OptimisationSettings,
    output: OutputSettings,
    device: torch.device,
    progress: Progress | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Path:
    """Train, and return the decoder's file. gan_from: the share of the steps after which the GAN begins; 1 for none."""
    data.check(flat.config, "the features")
    path = Path(output.folder, FILE)
    check_output(path, resume=True, setting="--output")
    flat.module.to(device)
    begin = round(gan_from * settings.steps)
    nets = {"maps": maps, "seen": seen}
    task = PixelTask(flat, data, settings, size=size, patch=patch, gan_from=begin, path=path, device=device, **nets)
    about = {"size": size, "patch": patch, "gan_from": gan_from, "optimisation": settings.model_dump()}
    fit(Trainer(task, settings), output, config=about, progress=progress, should_stop=should_stop)
    return path
