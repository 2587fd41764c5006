"""Tools of the checks that sample: conditionings, plans and latents, the host's real samplers, and what is watched of them."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

from inside_tools import (  # makes the host's and the pack's modules importable
    COLUMNS,
    HEIGHT,
    OVERLAP,
    ROWS,
    VECTOR,
    WIDTH,
    adapter,
    flux,
    node,
    picture,
    used,
)

# isort: split

import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from dinotile import nodes
from dinotile.dino.feature_map import FeatureMap
from dinotile.flux_patch.families import FLUX1
from dinotile.hosts.comfy import inject
from dinotile.hosts.comfy.sampling import denoise_sigmas


def text(seed: int = 0, tokens: int = 6, pooled: Tensor | None = None, **more) -> list:
    generator = torch.Generator().manual_seed(1000 + seed)
    context = torch.randn(1, tokens, used().context, generator=generator)
    if used().family.pooled_width is not None:
        made = torch.randn(1, VECTOR, generator=generator)
        more["pooled_output"] = made if pooled is None else pooled
    return [[context, {"guidance": 3.5, **more}]]


def project(
    chosen,
    found: FeatureMap,
    strength: float = 1.0,
    mask: Tensor | None = None,
    positive=None,
    negative=None,
    start: float = 0.0,
    end: float = 1.0,
    profile: str = "flat",
):
    """(positive, negative) with DINO tokens."""
    positive, negative = positive or text(0), negative or text(1)
    return node(
        nodes.ProjectConditioning,
        positive,
        chosen,
        found,
        strength,
        start,
        end,
        profile,
        negative=negative,
        mask=mask,
    )


def plan(tile: int | None = None, overlap: int = OVERLAP, height: int = HEIGHT, width: int = WIDTH):
    tile, family = tile or used().tile, used().family
    if family is FLUX1:
        return node(nodes.PlanTiles, width, height, tile, overlap)[0]
    times = family.cell // FLUX1.cell
    return family.plan_tiles(times * height, times * width, tile=times * tile, overlap=times * overlap, fit="exact")


def patched(chosen, model=None):
    return node(nodes.PatchFlux, model or flux(), chosen)


def tiled(model, of=None, *, moving: bool = False):
    return node(nodes.TileModel, model, of or plan(), moving)


def random_latent(seed: int = 0, batch: int = 1, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    channels = used().family.channels
    return framed(torch.randn(batch, channels, rows, columns, generator=torch.Generator().manual_seed(seed)))


def framed(latent: Tensor) -> Tensor:
    return latent.unsqueeze(2) if used().framed else latent


def where(batch: int = 1, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    """A latent whose channels 0, 1, 2 are a cell's row, its column and the number of its picture."""
    latent = torch.zeros(batch, used().family.channels, rows, columns)
    latent[:, 0] = torch.arange(rows)[:, None]
    latent[:, 1] = torch.arange(columns)[None, :]
    latent[:, 2] = torch.arange(batch)[:, None, None]
    return framed(latent)


def sample(
    model, positive, negative=None, *, cfg=1.0, steps=None, denoise=0.6, sampler="euler", latent=None, noise=None, seed=5,
    sigmas=None,
) -> Tensor:  # fmt: skip
    """A latent through the host's CFGGuider and sampler; ``sigmas`` instead of steps and denoise."""
    latent = random_latent(1) if latent is None else latent
    noise = random_latent(2, len(latent), *latent.shape[-2:]) if noise is None else noise
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive if negative is None else negative)
    guider.set_cfg(cfg)
    if sigmas is None:
        sigmas = denoise_sigmas(model, "simple", steps=steps or used().steps, denoise=denoise)
    chosen = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    return guider.sample(noise, latent, chosen, sigmas, disable_pbar=True, seed=seed)


def watch(model, see):
    """The model with ``see(call)`` at every model call, inside all of the pack's wrappers."""
    model = model.clone()

    def look(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
        see(
            SimpleNamespace(
                x=x, t=t, concat=c_concat, context=c_crossattn, control=control, options=options, kwargs=kwargs
            )
        )
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "dinotile_test_watch", look)
    return model


_made: weakref.ref | None = None  # weak: a call that is kept keeps its adapter, and the host collects garbage for it


def last_call():
    """The ``DinoCall`` of the model call that is going on."""
    assert _made is not None
    return _made()


def keep_calls() -> None:
    make = inject.make_call

    def made(*args, **kwargs):
        global _made
        call = make(*args, **kwargs)
        _made = None if call is None else weakref.ref(call)
        return call

    inject.make_call = made


keep_calls()


def counted(model) -> tuple:
    calls: list[int] = []
    return watch(model, lambda call: calls.append(len(call.x))), calls


def one_by_one(model):
    """The host sees no free memory for this very model (not for clones), so it runs one conditioning at a time."""
    model = model.clone()
    model.get_free_memory = lambda device: 0
    return model


def places(call, model) -> list[tuple[int, int, int]]:
    """(top, left, picture) of each row of a call, read from what ``where`` put into the latent."""
    x = call.x / (1 - call.t.view(-1, *[1] * (call.x.ndim - 1)))  # noise is zero
    x = model.model.process_latent_out(x)[..., 0, 0].flatten(1)
    return [tuple(int(torch.round(row[channel])) for channel in (0, 1, 2)) for row in x]


def upscale(*, vae, image=None, dino=None, chosen=None, model=None, scale=1.0, seed=0, **more):
    image = picture(height=64, width=80) if image is None else image
    return node(
        nodes.Upscale, image, model or flux(), vae, text(0), text(1), scale, 0.5, 1, "euler", "simple", 1.0, 64, 16,
        1.0, seed, dino=dino, adapter=chosen or (adapter() if dino else None), **more,
    )  # fmt: skip
