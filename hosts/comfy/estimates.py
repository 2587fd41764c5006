"""ComfyUI's estimates of the clean latents, changed after all that a guider does: for any sampler, guider and batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
from torch import Tensor
from torch.nn.functional import interpolate

from ...dino.encode import DinoEncoder
from ...dino.guidance.autoencoder import Canvas
from ...dino.guidance.start import guided_estimates
from ...dino.guidance.x0 import GuidanceSettings
from ...files.pixels import proportional
from ..finite import finite
from ..host import Estimates
from .latents import check_canvas, check_vae, flat, framed, latents_of, like
from .model import Wrappers, clone_of
from .padded import covered, grown

RUN = "dinotile_estimates"  # in model_options: of each kind, the estimates of the run
PATH = "dinotile_path"  # of the wrapper of the one path's own
NODES = {"anchor": "Source Anchor", "dino": "DINO Guidance"}  # of each kind, in the order in which they act


@dataclass(frozen=True, eq=False)
class Guidance:
    """What one node asks for. pixels: the whole picture [B, 3, h, w] in 0..1, which covers the canvas. decoder: a VAE.
    mask: [1, 1, h, w] over the picture, how much of a move is made."""

    pixels: Tensor
    decoder: Any
    settings: GuidanceSettings
    encoder: DinoEncoder | None = None
    mask: Tensor | None = None

    @property
    def kind(self) -> str:
        return "dino" if self.settings.dino else "anchor"

    def leaves_nothing_to(self, dino: GuidanceSettings) -> bool:
        """Whether it gives all of the source everywhere and whenever that DINO acts."""
        own = self.settings
        whole = own.anchor == 1 and own.every == 1 and self.mask is None
        return whole and own.low <= dino.low and dino.high <= own.high


def with_estimates(model: Any, estimates: Estimates, *, start: float) -> Any:
    """A clone of the model whose estimates go through these, after other guidance. start: the first noise level of the run."""
    model = clone_of(model)

    def predict_noise(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        denoised = executor(x, timestep, *args, **kwargs)
        return like(estimates(flat(denoised), float(timestep.max()), start=start), denoised)

    _add_around(model, PATH, predict_noise)
    return model


def guide_model(model: Any, guidance: Guidance) -> Any:
    """A clone of the model that every sampler runs with this guidance; ValueError where it has one of the kind already."""
    check_vae(latents_of(model), guidance.decoder, name="decoder")
    model = clone_of(model)
    wrappers, others = model.wrappers.get(Wrappers.OUTER_SAMPLE, {}), {guidance.kind: guidance}
    for kind, node in NODES.items():
        for wrapper in wrappers.get(f"{RUN}_{kind}", ()):
            if kind == guidance.kind:
                raise ValueError(f"the model has a {node} already: remove one, or raise the strength of the other")
            others[kind] = wrapper.keywords["guidance"]
    if len(others) == len(NODES) and others["anchor"].leaves_nothing_to(others["dino"].settings):
        raise ValueError(
            "DINO Guidance has nothing to do beside a Source Anchor of strength 1, which gives all of the source: lower the "
            "anchor, or remove DINO Guidance"
        )
    model.add_wrapper_with_key(
        Wrappers.OUTER_SAMPLE, f"{RUN}_{guidance.kind}", partial(outer_sample, guidance=guidance)
    )
    if not model.wrappers.get(Wrappers.PREDICT_NOISE, {}).get(RUN):
        _add_around(model, RUN, predict_noise)
    return model


def _add_around(model: Any, key: str, wrapper: Callable[..., Tensor]) -> None:
    """Around all wrappers of estimates that the model has, such as LazyCache's: the host has the first one around the others."""
    model.add_wrapper_with_key(Wrappers.PREDICT_NOISE, key, wrapper)
    wrappers = model.wrappers[Wrappers.PREDICT_NOISE]
    model.wrappers[Wrappers.PREDICT_NOISE] = {key: wrappers.pop(key), **wrappers}


def check_unguided(model: Any) -> None:
    """ValueError for a model with guidance to a whole picture, which a part of it is not."""
    for kind, node in NODES.items():
        if model.wrappers.get(Wrappers.OUTER_SAMPLE, {}).get(f"{RUN}_{kind}"):
            raise ValueError(
                f"the model has a {node}, which holds every tile to the whole picture: connect the model without it, and set "
                "anchor here, or use DINO Tiled Upscale"
            )


def outer_sample(
    executor: Any,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    *args: Any,
    guidance: Guidance,
    **kwargs: Any,
) -> Any:
    """OUTER_SAMPLE: starts the run. ``guider.model_options`` is the run's own copy."""
    check_canvas(noise)
    pictures, latents = len(guidance.pixels), len(noise)
    if latents % pictures:
        raise ValueError(
            f"guidance has {pictures} pictures, the latent holds {latents}: connect one image, or as many as the latent holds"
        )
    guider = executor.class_obj
    cells = tuple(noise.shape[-2:])
    run = started(guidance, guider.model_patcher, cells, shown=covered(guider.conds))
    options = guider.model_options
    options[RUN] = {**options.get(RUN, {}), guidance.kind: partial(run, start=float(sigmas[0]))}
    return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)


def predict_noise(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], *args: Any, **kwargs: Any
) -> Tensor:
    """PREDICT_NOISE of all guided models: of what the guider made of its conditionings, whichever they are. What is done after
    CFG would be done to a part of that by guiders of three conditionings."""
    denoised = executor(x, timestep, model_options, *args, **kwargs)
    estimate, runs = flat(denoised), model_options.get(RUN, {})
    for kind in NODES:
        if kind in runs:
            estimate = runs[kind](estimate, float(timestep.max()))
    return like(estimate, denoised)


def started(
    guidance: Guidance, model: Any, cells: tuple[int, int], *, shown: tuple[float, float] | None = None
) -> Callable[..., Tensor]:
    """A run's estimates on a canvas of that height and width in latent cells, and of a picture that has ``shown`` of it, or
    all."""
    from . import vae as vae_path  # here, because the host's start waits for what is imported above

    vae, inner = guidance.decoder, model.model
    latents, shown = latents_of(model), shown or cells
    height, width = (round(side * latents.cell) for side in shown)
    rows, columns = guidance.pixels.shape[-2:]
    if not proportional((rows, columns), (height, width)):
        raise ValueError(
            f"guidance has a picture of {columns} x {rows} px, the latent shows {width} x {height}: connect the whole picture "
            "that the latent was made of"
        )
    mask = guidance.mask
    if mask is not None:
        size = [round(side) for side in shown]
        mask = interpolate(mask, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        mask = grown(mask, cells)
    whole = [side * latents.cell for side in cells]
    return guided_estimates(
        guidance.pixels.to(model.load_device),
        guidance.settings,
        canvas=Canvas(
            lambda latents: vae_path.decode(vae, inner.process_latent_out(framed(latents, inner))),
            lambda seen: flat(finite(inner.process_latent_in(vae_path.encode(vae, grown(seen, whole))), "encode")),
            (height, width),
        ),
        encoder=guidance.encoder,
        mask=mask,
        check=comfy.model_management.throw_exception_if_processing_interrupted,
    )
