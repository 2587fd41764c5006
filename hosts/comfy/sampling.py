"""ComfyUI's samplers, schedulers and guiders, with tiles or without."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from torch import Tensor

from ...files.progress import Progress
from ...flux_patch.guide import Guide, NullGuide
from ...tiling.plan import TilePlan
from .host import ComfyHost
from .model import attach, tile_model


@dataclass(frozen=True)
class ComfySampler:
    """``upscaling.pipeline.Sampler`` on ComfyUI's own sampling. The plan is in px, as *Plan Tiles* gives it; the host's
    model is not tiled."""

    host: ComfyHost
    positive: list
    negative: list
    sampler: str
    scheduler: str
    cfg: float
    steps: int
    denoise: float
    seed: int

    def __call__(
        self,
        latents: Tensor,
        *,
        plan: TilePlan,
        guide: Guide | None,
        denoise_mask: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        model, positive, negative, adapter = self.host.model, self.positive, self.negative, self.host.adapter
        if guide is not None and adapter is not None:
            positive, negative = attach(positive, adapter, guide), attach(negative, adapter, NullGuide(guide))
            model = self.host.patcher
        sigmas = self.sigmas()
        if len(sigmas) < 2:
            return latents
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(self.cfg)
        latent = {"samples": model.model.process_latent_out(latents)}
        if denoise_mask is not None:
            latent["noise_mask"] = denoise_mask
        guider = tiled_guider(guider, plan)
        out, _ = run_sampler(
            Noise_RandomNoise(self.seed), guider, comfy.samplers.sampler_object(self.sampler), sigmas, latent
        )
        return model.model.process_latent_in(out["samples"])

    def sigmas(self) -> Tensor:
        return denoise_sigmas(self.host.model, self.scheduler, steps=self.steps, denoise=self.denoise)

    def describe(self, plan: TilePlan) -> dict[str, Any]:
        sigmas = self.sigmas().tolist()
        return {"steps": max(0, len(sigmas) - 1), "sigmas": [round(sigma, 6) for sigma in sigmas]}


def denoise_sigmas(model: Any, scheduler: str, *, steps: int, denoise: float) -> Tensor:
    """The last ``steps`` of a schedule of steps / denoise, as KSampler does; empty where nothing is denoised."""
    if denoise <= 0:
        return torch.FloatTensor([])
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, int(steps / denoise))[-(steps + 1) :]


def tiled_guider(guider: Any, plan: TilePlan) -> Any:
    """The same guider over the tiled model; the given one stays as it is."""
    guider = copy.copy(guider)
    guider.model_patcher = tile_model(guider.model_patcher, plan)
    guider.model_options = guider.model_patcher.model_options
    return guider


def run_sampler(noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent: dict) -> tuple[dict, dict]:
    """The host's own *SamplerCustomAdvanced*: progress, preview, interrupt."""
    return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args


def sampler_names() -> list[str]:
    return list(comfy.samplers.SAMPLER_NAMES)


def scheduler_names() -> list[str]:
    return list(comfy.samplers.SCHEDULER_NAMES)
