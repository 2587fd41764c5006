"""The one path of a picture, over any host: size, DINO, latents, joint tiles, picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial, reduce
from typing import Any, Protocol

import torch
from torch import Tensor

from ..dino.encode import DinoEncoder
from ..dino.guidance.autoencoder import Canvas
from ..dino.guidance.start import guided_estimates
from ..files.pixels import check_pixels, resize
from ..files.progress import Progress, Share, part_of, share_of
from ..flux_patch.guide import Guide
from ..hosts.finite import finite
from ..hosts.host import Estimates, Host
from ..hosts.memory import shortages, shortages_told
from ..tiling.canvas import pad_to_grid, scaled_size
from ..tiling.color import back_project
from ..tiling.color_match import match_color
from ..tiling.moving import moved
from ..tiling.noise import canvas_noise
from ..tiling.plan import TilePlan
from .adaptive import adaptive_mask
from .check import check
from .guides import check_guide
from .masks import EVERYWHERE, Masks, in_cells
from .report import sizes, timed
from .settings import UpscaleSettings


class Sampler(Protocol):
    """How the canvas is noised and brought back; plans are in px."""

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
        """Model latents [B, C, h, w] of the enlarged picture -> those of the result, which are the same where
        ``denoise_mask`` [1 or B, 1, h, w] is 0. enlarged: the latents of the enlarged picture, where the run begins at others.
        noise: like the latents; None: of the seed, for the whole canvas at once."""
        ...

    def describe(self, plan: TilePlan) -> dict[str, Any]:
        """For the report: steps, sigmas, and the batch of tiles where it is known."""
        ...


class MakeGuide(Protocol):
    """Who looks at a picture [B, 3, h, w] for its tiles. plan: in px. size: height and width of the result in px."""

    def __call__(self, pixels: Tensor, *, plan: TilePlan, size: tuple[int, int]) -> Guide | None: ...

    def describe(self) -> dict[str, Any]:
        """For the report: model and layers."""
        ...


@torch.no_grad()
@shortages_told()
def upscale(
    host: Host,
    pixels: Tensor,
    settings: UpscaleSettings,
    *,
    sampler: Sampler,
    make_guide: MakeGuide | None = None,
    encoder: DinoEncoder | None = None,
    shown: Tensor | None = None,
    enlarge: Callable[[Tensor], Tensor] | None = None,
    masks: Masks = EVERYWHERE,
    gentler: Sampler | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """``pixels`` [B,3,H,W] in 0..1 -> the same pictures ``scale`` times as large, and what was done as a dict.

    encoder: what ``settings.guide`` and ``settings.adaptive`` look with, and what the result is measured with. shown: pictures
    that guide takes for ``pixels``, to find out what it does. gentler: samples tiles again where ``settings.retry`` asks for it.
    enlarge: makes the first, larger picture (of any size) from ``pixels``; None: bicubic.
    masks: where DINO guides estimates, ``make_guide`` has its own, and what is redrawn: at 0 the latents of the larger picture
    stay, in each step, as with ComfyUI's noise_mask; ``settings.adaptive`` multiplies its own one with that. The
    result depends on the pictures, the models and the settings only; never on how many tiles share a model call. Raises
    ValueError for NaN, an empty batch or wrong channels, and where a stage gives what is NaN or infinite.
    """
    check_pixels(pixels)
    check_guide(settings, encoder)
    masks.check(*pixels.shape[-2:], pictures=len(pixels))
    seconds: dict[str, float] = {}
    size = scaled_size(*pixels.shape[-2:], scale=settings.scale)
    plan = settings.plan(*pixels.shape[-2:], latents=host.latents)
    wanted = make_guide if settings.dino_strength > 0 else None
    redrawn = [] if masks.denoise is None else [masks.denoise]
    with timed(seconds, "dino", None if wanted is None and settings.adaptive == 0 else progress):
        guide = None if wanted is None else wanted(pixels, plan=plan, size=size)
        if encoder is not None and settings.adaptive > 0:
            redrawn.append(adaptive_mask(host, encoder, pixels, amount=settings.adaptive))
    larger = pixels
    if enlarge is not None:
        with timed(seconds, "enlarge"):
            host.check_interrupt()
            larger = finite(enlarge(pixels), "enlarge")
    with timed(seconds, "encode", progress):
        host.check_interrupt()
        larger = resize(larger, height=size[0], width=size[1])
        told, passes = share_of(progress, "encode"), 1 + (settings.vae_detail > 0)
        latents = _encoded(host, larger, partial(host.encode, told=part_of(told, 0, passes)))
        lost = None
        if settings.vae_detail > 0:
            back = _shown(host, latents, size, told=part_of(told, 1, passes))
            lost = settings.vae_detail * (larger - back.to(larger))
    estimates = None
    if not settings.on_estimates.off and settings.denoise > 0:
        with timed(seconds, "guidance", progress):
            estimates = guided_estimates(
                pixels.to(host.device),
                settings.on_estimates,
                canvas=Canvas(host.show, lambda seen: _encoded(host, seen, host.read), size),
                encoder=encoder,
                shown=shown,
                dino_mask=masks.dino,
                check=host.check_interrupt,
            )
    noise = canvas_noise(latents.shape, seed=settings.seed) if settings.noise == "place" else None
    with timed(seconds, "sample"):
        each = [in_cells(mask, height=size[0], width=size[1], latents=host.latents) for mask in redrawn]
        cells = reduce(torch.mul, each) if each else None
        drawn = sampler(
            latents, plan=plan, guide=guide, estimates=estimates, denoise_mask=cells, noise=noise, progress=progress
        )
        finite(drawn, "sample")
    usable = shortages().plan or plan  # smaller tiles, where memory ended

    def decode(latents: Tensor, told: Share | None = None) -> Tensor:
        """[B, 3, *size], as true to the source as asked."""
        result = _shown(host, latents, size, told=told)
        if lost is not None:  # of the enlarged picture by the VAE alone
            result = (result + lost.to(result)).clamp_(0, 1)
        result = match_color(result, larger.to(result), way=settings.color_match, plan=usable)
        return back_project(result, pixels.to(result), fidelity=settings.fidelity)

    def again(share: Tensor) -> Tensor:
        assert gentler is not None
        start = torch.lerp(drawn, latents.to(drawn), share.to(drawn))
        mask = share if cells is None else share * cells
        told = None if progress is None else partial(_retelling, progress)
        anew = None if estimates is None else estimates.again()
        second = gentler(
            start,
            plan=plan,
            guide=guide,
            estimates=anew,
            denoise_mask=mask,
            enlarged=latents,
            noise=noise,
            progress=told,
        )
        return decode(finite(second, "sample"))

    with timed(seconds, "decode", progress):
        result = decode(drawn, share_of(progress, "decode"))
    sampled = sampler.describe(plan)
    # every step has as many tiles and pixels as the last, whose borders are seen
    laid = moved(usable, step=max(0, sampled["steps"] - 1), seed=settings.seed) if settings.moving else usable
    result, checked = check(
        result,
        source=pixels,
        plain=larger,
        plan=laid,
        encoder=encoder,
        threshold=settings.retry,
        again=again,
        seconds=seconds,
        progress=progress,
    )
    report = {
        **sizes(pixels, size, plan=usable, laid=laid, batch=sampled.pop("batch", None)),
        "redrawn": 1.0 if cells is None else round(float(cells.mean()), 4),  # mean of the mask
        "dino": None if guide is None or wanted is None else wanted.describe(),
        "guidance": None if estimates is None else estimates.report(),
        **checked,
        **sampled,
        "out_of_memory": shortages().told,
        "settings": asdict(replace(settings, mode="joint")),
        "seconds": seconds,
    }
    return result, report


def _encoded(host: Host, pixels: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    return finite(encode(pad_to_grid(pixels, grid=host.latents.token)), "encode")


def _shown(host: Host, latents: Tensor, size: tuple[int, int], *, told: Share | None = None) -> Tensor:
    host.check_interrupt()
    result = finite(host.decode(latents, told=told), "decode")
    if result.shape[-2:] != size:
        result = result[..., : size[0], : size[1]].contiguous()  # which lets go of the canvas
    return result


def _retelling(progress: Progress, stage: str, done: float, total: float, note: str = "") -> None:
    progress("retry", done, total, note)
