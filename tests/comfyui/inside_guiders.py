"""Checks for inside.py: the host's guiders over tiles and with an anchor, and a schedule in two parts."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.samplers
import torch
from comfy_extras.nodes_custom_sampler import DualCFGGuider, DualModelGuider
from inside_families import latent, planned, small
from inside_tools import CHECKS, apart, node
from inside_zoo import built, decoder, drawn, text
from torch import Tensor

from dinotile import nodes
from dinotile.hosts.comfy.estimates import RUN, Wrappers, started
from dinotile.hosts.comfy.latents import flat
from dinotile.hosts.comfy.sampling import tiled_guider
from dinotile.tiling.windows import tile_windows, window

FAMILY = "OmniGen 2"  # whose own template has three conditionings
GUIDERS = {  # of a model, a positive, a negative and a third conditioning
    "three": lambda model, *conds: DualCFGGuider.execute(model, conds[0], conds[2], conds[1], 2.0, 1.5, "regular"),
    "three, nested": lambda model, *conds: DualCFGGuider.execute(model, conds[0], conds[2], conds[1], 2.0, 1.5, "nested"),
    "two models": lambda model, *conds: DualModelGuider.execute(model, conds[0], 2.0, built(FAMILY), conds[1]),
}  # fmt: skip


def run(name: str, model: Any, latents: Tensor, noise: Tensor, levels: list[float], *, of: Any = None) -> Tensor:
    (guider,) = GUIDERS[name](model, *(text(FAMILY, seed) for seed in range(3))).args
    if of is not None:
        guider = tiled_guider(guider, of)
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, latents, sampler, torch.tensor(levels), disable_pbar=True, seed=5)


def guided(name: str) -> dict:
    model = built(FAMILY)
    of, latents = planned(model), latent(model)
    noise = drawn(*latents.shape, seed=2)
    in_tiles = run(name, model, latents, noise, [0.8, 0.0], of=of)
    fused, weights = torch.zeros_like(latents), torch.zeros_like(latents)
    for box, pair in zip(of.latent.boxes, tile_windows(of.latent), strict=True):
        place = (..., slice(box.top, box.bottom), slice(box.left, box.right))
        fused[place] += run(name, model, latents[place], noise[place], [0.8, 0.0]) * window(pair)
        weights[place] += window(pair)
    half = run(name, model, latents, noise, [0.8, 0.4], of=of)
    anchored = node(nodes.SourceAnchor, model, small(model), decoder(model), 1.0, 1.0, 0.0, 1)
    led = run(name, anchored, latents, noise, [0.8, 0.0], of=of)
    wrapper = anchored.wrappers[Wrappers.OUTER_SAMPLE][f"{RUN}_anchor"][0]
    estimates = started(wrapper.keywords["guidance"], model, tuple(latents.shape[-2:]))
    inner = model.model
    wanted = estimates(flat(inner.process_latent_in(in_tiles.clone())), 0.8, start=0.8)
    return {
        "by hand": apart(in_tiles, fused / weights),
        "in two parts": apart(
            run(name, model, half, torch.zeros_like(noise), [0.4, 0.0], of=of),
            run(name, model, latents, noise, [0.8, 0.4, 0.0], of=of),
        ),
        "anchored": apart(flat(inner.process_latent_in(led.clone())), wanted),
        "anchor acts by": apart(led, in_tiles),
    }


for name in GUIDERS:
    CHECKS[f"guider {name}"] = partial(guided, name)
