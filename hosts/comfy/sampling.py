"""ComfyUI's samplers, schedulers and guiders, with tiles or without."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced
from torch import Tensor

from ...files.progress import Progress
from ...flux_patch.guide import Guide, NullGuide
from ...tiling.noise import seed_of
from ...tiling.plan import Box, TilePlan
from ..differential import redrawn
from ..host import Estimates
from .estimates import with_estimates
from .host import ComfyHost
from .inject import call_arguments
from .joint_run import JointRun
from .latents import flat, framed
from .model import Wrappers, attach, tile_model
from .tiles import RUN

if TYPE_CHECKING:
    from .place import PlaceCrop


@dataclass(frozen=True)
class ComfySampler:
    """``upscaling.pipeline.Sampler`` on ComfyUI's own sampling. The plan is in px, as *Plan Tiles* gives it; the host's
    model is not tiled. differential: of the denoise mask, as in ``upscaling.joint.sample``. crop: for ``at``, of the canvas."""

    host: ComfyHost
    positive: list
    negative: list
    sampler: str
    scheduler: str
    cfg: float
    steps: int
    denoise: float
    seed: int
    moving: bool = False
    differential: bool = False
    crop: PlaceCrop | None = None

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
        """enlarged: not used; ComfyUI's ControlNets come with their hints."""
        model, positive, negative, adapter = self.host.model, self.positive, self.negative, self.host.adapter
        if guide is not None and adapter is not None:
            positive, negative = attach(positive, adapter, guide), attach(negative, adapter, NullGuide(guide))
            model = self.host.patcher
        sigmas = self.sigmas()
        if len(sigmas) < 2:
            return latents
        if estimates is not None:
            model = with_estimates(model, estimates, start=float(sigmas[0]))
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(self.cfg)
        guider = tiled_guider(guider, plan, moving=self.moving)
        if self.differential:
            guider.model_patcher.set_model_denoise_mask_function(differential)
        steps = StepProgress(guider.model_patcher, progress, steps=len(sigmas) - 1)
        latents = model.model.process_latent_out(framed(latents, model.model))
        samples = guider.sample(
            comfy.sample.prepare_noise(latents, self.seed) if noise is None else framed(noise, model.model),
            latents,
            comfy.samplers.sampler_object(self.sampler),
            sigmas,
            denoise_mask=None if denoise_mask is None else framed(denoise_mask, model.model),
            callback=steps.ended,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=self.seed,
        )
        return flat(model.model.process_latent_in(samples.to(comfy.model_management.intermediate_device())))

    def at(self, box: Box, *, canvas: tuple[int, int]) -> ComfySampler:
        """``upscaling.tile.TileSampler``'s: what the conditionings say of the picture is said of its part, whose noise of each
        step, where the sampler adds any, is its own."""
        if self.crop is None:
            raise ValueError("a sampler for parts of a picture needs their canvas: make it with crop")
        positive, negative = (self.crop(each, box) for each in (self.positive, self.negative))
        return replace(self, positive=positive, negative=negative, seed=seed_of(box, seed=self.seed))

    def sigmas(self) -> Tensor:
        return denoise_sigmas(
            self.host.model, self.scheduler, steps=self.steps, denoise=self.denoise, sampler=self.sampler
        )

    def describe(self, plan: TilePlan) -> dict[str, Any]:
        sigmas = self.sigmas().tolist()
        return {"steps": max(0, len(sigmas) - 1), "sigmas": [round(sigma, 6) for sigma in sigmas]}


class StepProgress:
    """Tells of every model call how far the steps are, and brings the host's preview of each step.

    A sampler that evaluates all tiles several times in a step is known from its first step on.
    """

    def __init__(self, model: Any, progress: Progress | None, *, steps: int) -> None:
        self.progress, self.steps = progress, steps
        self.run: JointRun | None = None
        self.done = 0  # steps
        self.before, self.each = 0, 1  # evaluations before this step, and in a step
        self.previewer = None  # which may be a model that is loaded for this
        if hasattr(progress, "preview"):
            self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        model.add_wrapper_with_key(Wrappers.APPLY_MODEL, "dinotile_progress", self.apply_model)

    def apply_model(self, executor: Any, x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL, on the run's own clone of the model."""
        *_, options = call_arguments(args, dict(kwargs))
        out = executor(x, t, *args, **kwargs)
        self.run = run = options[RUN]
        run.seen += len(x)
        share = run.seen / run.rows
        within = (run.evaluations - self.before - 1 + share) / max(self.each, run.evaluations - self.before)
        tiles = run.tiles.plan.count
        self.tell(self.done + within, f", tile {round(share * tiles)} of {tiles}")
        return out

    def ended(self, step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        """The host's callback after a step."""
        if self.run is not None:
            self.each, self.before = max(self.each, self.run.evaluations - self.before), self.run.evaluations
        self.done = step + 1
        if self.previewer is not None and self.progress is not None:
            self.progress.preview = self.previewer.decode_latent_to_preview_image("JPEG", x0)
        self.tell(self.done)

    def tell(self, done: float, note: str = "") -> None:
        if self.progress is not None:
            self.progress("sample", done, self.steps, f"step {min(self.done + 1, self.steps)} of {self.steps}{note}")


def differential(sigma: Tensor, mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """The host's hook for a noise mask at noise levels [B], as its *Differential Diffusion* uses it."""
    return redrawn(mask, float(sigma[0]), start=float(extra_options["sigmas"][0]))


def denoise_sigmas(model: Any, scheduler: str, *, steps: int, denoise: float, sampler: str = "euler") -> Tensor:
    """The last ``steps`` of a schedule of steps / denoise, or all of one that is not cut, and for some samplers one without its
    last level but 0, as KSampler does; empty where nothing is denoised."""
    if denoise <= 0:
        return torch.FloatTensor([])
    discards = sampler in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, int(steps / denoise) + discards)
    if discards:
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    return sigmas if denoise > 0.9999 else sigmas[-(steps + 1) :]


def tiled_guider(guider: Any, plan: TilePlan, *, moving: bool = False) -> Any:
    """The same guider over the tiled model; the given one stays as it is."""
    guider = copy.copy(guider)
    guider.model_patcher = tile_model(guider.model_patcher, plan, moving=moving)
    guider.model_options = guider.model_patcher.model_options
    return guider


def run_sampler(noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent: dict) -> tuple[dict, dict]:
    """The host's own *SamplerCustomAdvanced*: progress, preview, interrupt."""
    return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args


def sampler_names() -> list[str]:
    return list(comfy.samplers.SAMPLER_NAMES)


def scheduler_names() -> list[str]:
    return list(comfy.samplers.SCHEDULER_NAMES)
