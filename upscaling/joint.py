"""Joint tiled Euler sampling of a flow model: every step moves one canvas, through all of its tiles."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..files.progress import Progress
from ..flux_patch.families import FLUX1, FLUX2, ModelFamily
from ..flux_patch.guide import Guide
from ..flux_patch.memo import RunMemo
from ..flux_patch.redux import ReduxTokens
from ..flux_patch.rows import DinoRow
from ..hosts.differential import redrawn
from ..hosts.host import Estimates, Hint, Host, Text
from ..hosts.memory import Memory, in_less, in_tiles, shortages
from ..tiling.canvas import cut
from ..tiling.moving import moved
from ..tiling.plan import Box, TilePlan, smaller_tiles
from .settings import UpscaleSettings
from .tile_batch import TileBatch, TileRow, Velocity, default_tile_batch, telling

LONGEST_SCHEDULE = 1e6  # steps; noise levels below one in a million change no picture, and some underflow


class JointEuler:
    """``pipeline.Sampler`` on a host's velocity: ``sample`` with the settings' schedule, noise, text, and guidance by text and
    DINO. negative: what a cfg above 1 leads away from. redux: what the text is followed by in each tile, and the height and width
    of its pictures in latent cells, on a canvas that may be padded beyond them."""

    def __init__(
        self,
        host: Host,
        text: Text,
        settings: UpscaleSettings,
        *,
        negative: Text | None = None,
        redux: tuple[ReduxTokens, tuple[float, float]] | None = None,
    ) -> None:
        if settings.cfg > 1 and negative is None:
            raise ValueError(
                f"cfg {settings.cfg} guides by text, and there is none: give a whole pipeline with text encoders as the model, "
                "or set cfg to 1"
            )
        self.host, self.settings, self.redux = host, settings, redux
        self.corner = 0, 0  # of what is sampled, on the picture: top and left in latent cells
        self.text, self.negative = replace(text.to(host.device), guidance=settings.guidance), None
        self.chosen = (
            settings.tile_batch
        )  # tiles per model call, by the memory that is free when the first call is made
        if settings.cfg > 1 and negative is not None:
            self.negative = replace(negative.to(host.device), guidance=settings.guidance)

    def describe(self, plan: TilePlan) -> dict[str, Any]:
        sigmas = self.sigmas(plan)
        return {"steps": len(sigmas) - 1, "sigmas": [round(sigma, 6) for sigma in sigmas], "batch": self.batch(plan)}

    def sigmas(self, plan: TilePlan) -> list[float]:
        """The noise levels for a plan in px."""
        settings = self.settings
        tokens = plan.tile_height * plan.tile_width // plan.grid**2 if settings.dynamic_shift else None
        return flow_sigmas(settings.steps, denoise=settings.denoise, tokens=tokens, family=self.host.family)

    def batch(self, plan: TilePlan) -> int:
        if not self.chosen:
            cells = plan.latent
            self.host.load([1, self.host.latents.channels, cells.tile_height, cells.tile_width])
            self.chosen = default_tile_batch(self.host.device, plan)
        return self.chosen

    def __call__(
        self,
        latents: Tensor,
        *,
        plan: TilePlan,
        guide: Guide | None,
        estimates: Estimates | None = None,
        denoise_mask: Tensor | None = None,
        enlarged: Tensor | None = None,
        noise: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        if noise is None:
            noise = seeded_noise(latents.shape, seed=self.settings.seed)
        shown = latents if enlarged is None else enlarged
        memo = RunMemo()
        device, cells = self.host.device, plan.latent

        def velocity(x: Tensor, sigma: float, rows: Sequence[TileRow]) -> Tensor:
            self.host.check_interrupt()
            hint = Hint(
                torch.stack([cut(shown[row.image], row.box) for row in rows]), self.settings.controlnet_strength
            )
            canvas = cells.height, cells.width
            return self.velocity(x, sigma, rows, canvas=canvas, guide=guide, hint=hint, memo=memo)

        def lay(step: int) -> TilePlan:
            if self.settings.moving and plan.count > 1:
                memo.clear()  # of regions that do not come again
                return moved(plan, step=step, seed=self.settings.seed).latent
            return plan.latent

        def spare() -> Iterator[str]:
            nonlocal plan
            yield from self.host.relief()
            while (smaller := smaller_tiles(plan)) is not None:
                memo.clear()
                plan = shortages().plan = smaller
                yield in_tiles(plan)

        sampled = sample(
            velocity,
            latents.to(device),
            noise=noise.to(device),
            sigmas=self.sigmas(plan),
            plan=cells,
            tile_batch=self.batch(plan),
            move=lay,
            spare=spare(),
            memory=self.host.memory,
            estimates=estimates,
            denoise_mask=None if denoise_mask is None else denoise_mask.to(device),
            differential=self.settings.adaptive > 0,
            progress=progress,
        )
        return sampled.cpu()

    def at(self, box: Box, *, canvas: tuple[int, int]) -> JointEuler:
        """``tile.TileSampler``'s."""
        own = copy.copy(self)
        own.corner = box.top, box.left
        return own

    def velocity(
        self,
        x: Tensor,
        sigma: float,
        rows: Sequence[TileRow],
        *,
        canvas: tuple[int, int],
        guide: Guide | None,
        memo: RunMemo,
        hint: Hint | None = None,
    ) -> Tensor:
        """v(n, 0) + cfg * (v(p, 0) - v(n, 0)) + dino_guidance * (v(p, d) - v(p, 0)), of text p, negative n, DINO d and the
        adapter's learned null 0 in its place: guidance by two conditions, of arXiv 2211.09800, equation 3."""
        sigmas = torch.full((len(x),), sigma, device=x.device)
        dino = [] if guide is None else [guide.row(row.image, row.box, canvas=canvas) for row in rows]
        dropped = [replace(row, tokens=None) for row in dino]

        def at(text: Text, rows: Sequence[DinoRow]) -> Tensor:
            return self.host.velocity(x, sigmas, text=text, rows=rows, hint=hint, memo=memo)

        text = self.told(rows, memo)
        plain = out = at(text, dino)
        if dino and (self.settings.dino_guidance != 1 or self.negative is not None):
            plain = at(text, dropped)
            out = plain + self.settings.dino_guidance * (out - plain)
        if self.negative is not None:
            out = out + (self.settings.cfg - 1) * (plain - at(self.negative, dropped))
        return out

    def told(self, rows: Sequence[TileRow], memo: RunMemo) -> Text:
        """The prompt, and what Redux says of each tile."""
        if self.redux is None:
            return self.text
        redux, covers = self.redux
        boxes = [row.box.moved(*self.corner).fractions(*covers) for row in rows]
        regions = [memo.once(("redux", box), partial(redux.region, box)) for box in boxes]
        tokens = torch.stack(
            [found.tokens[row.image % redux.pictures] for row, found in zip(rows, regions, strict=True)]
        )
        weights = [found.weights for found in regions if found.weights is not None]
        return self.text.followed_by(tokens, torch.stack(weights) if weights else None)


def flow_sigmas(steps: int, *, denoise: float, tokens: int | None = None, family: ModelFamily = FLUX1) -> list[float]:
    """The noise levels of ``steps`` model evaluations, from about ``denoise`` down to 0: ``steps + 1`` numbers.

    They are the end of a longer schedule of ``int(steps / denoise)`` steps, as in ComfyUI. ``tokens`` (those of one tile) shifts
    the schedule by ``t -> e^mu / (e^mu + 1/t - 1)`` with ``schedule_shift``'s mu; without it the levels are evenly spaced.
    """
    if denoise <= 0:
        return [0.0]
    total = int(min(steps / denoise, LONGEST_SCHEDULE))
    levels = [step / total for step in range(steps, -1, -1)]
    if tokens is None:
        return levels
    factor = math.exp(schedule_shift(tokens, steps=total, family=family))
    return [factor / (factor + 1 / t - 1) if t > 0 else 0.0 for t in levels]


def schedule_shift(tokens: int, *, steps: int, family: ModelFamily) -> float:
    """mu: for FLUX.1 dev linear from 0.5 at 256 tokens to 1.15 at 4096 (arXiv 2403.03206, section 5.3.2, with FLUX's numbers);
    for FLUX.2 between two lines of the tokens, at 10 and at 200 steps of the whole schedule, from 4300 tokens on the latter
    (black-forest-labs/flux2, sampling.py)."""
    if family is not FLUX2:
        return 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    few, many = 8.73809524e-05 * tokens + 1.89833333, 0.00016927 * tokens + 0.45666666
    return many if tokens > 4300 else many + (few - many) * (200 - steps) / 190


@torch.no_grad()
def sample(
    velocity: Velocity,
    latents: Tensor,
    *,
    noise: Tensor,
    sigmas: Sequence[float],
    plan: TilePlan,
    tile_batch: int = 8,
    move: Callable[[int], TilePlan] | None = None,
    spare: Iterator[str] | None = None,
    memory: Memory | None = None,
    estimates: Estimates | None = None,
    denoise_mask: Tensor | None = None,
    differential: bool = False,
    progress: Progress | None = None,
) -> Tensor:
    """Bring ``latents`` [B,C,h,w] plus noise back to a clean canvas, all tiles together at each step.

    ``velocity(x, sigma, rows)`` is the model on tiles [N,C,th,tw]; each tile's clean estimate ``x - sigma * v`` is
    weighted with its window, the sum is the canvas' estimate, and Euler moves the canvas towards it. ``plan`` is in
    latent cells. ``tile_batch`` tiles of one size share a model call and do not change the result; where ``memory`` ends there
    are fewer, and where one is too many, the step begins anew after each of ``spare``. ``progress`` counts tiles.
    ``move``: the tiles of a step, by its number, where they are not the plan's; asked whenever one begins, in their order.
    ``estimates``: changes the canvas' estimate before Euler's step, such as ``dino.guidance``'s.
    ``denoise_mask`` [1 or B, 1, h, w]: where it is 0 the model sees the latents with the step's noise, and they come back.
    differential: whether values between 0 and 1 are a lower denoise, as in ``redrawn``; else they blend in every step.
    """
    if plan.height != latents.shape[-2] or plan.width != latents.shape[-1]:
        raise ValueError(
            f"the plan covers {plan.width} x {plan.height} cells, the latents have "
            f"{latents.shape[-1]} x {latents.shape[-2]}: plan the latents' own canvas"
        )
    x = sigmas[0] * noise + (1 - sigmas[0]) * latents
    batch, steps = TileBatch(tile_batch, memory or Memory(latents.device)), len(sigmas) - 1

    def estimate(step: int, seen: Tensor) -> Tensor:
        laid = plan if move is None else move(step)
        told = None if progress is None else telling(progress, step, steps)
        return batch.estimate(velocity, seen, sigmas[step], plan=laid, told=told)

    for step, (sigma, following) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        seen, mask = x, denoise_mask
        if mask is not None:
            mask = redrawn(mask, sigma, start=sigmas[0]) if differential else mask
            seen = torch.lerp(sigma * noise + (1 - sigma) * latents, x, mask)
        ways = iter(()) if spare is None else spare
        clean = in_less(partial(estimate, step, seen), stage="sample", ways=ways, memory=batch.memory)
        if estimates is not None:
            clean = estimates(clean, sigma, start=sigmas[0])
        if mask is not None:
            clean = torch.lerp(latents, clean, mask)
        x = x + (following - sigma) * (x - clean) / sigma
    return x


def seeded_noise(shape: Sequence[int], *, seed: int) -> Tensor:
    """The same noise on every machine: drawn on the CPU, as ComfyUI does."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
