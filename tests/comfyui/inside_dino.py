"""Checks for inside.py: what DINO changes and what it does not; regions, masks, windows."""

from __future__ import annotations

from dataclasses import replace

import comfy.sd
import comfy.utils
import torch
from inside_sampling import (
    last_call,
    one_by_one,
    patched,
    places,
    plan,
    project,
    random_latent,
    sample,
    text,
    tiled,
    upscale,
    watch,
    where,
)
from inside_tools import (
    BASE,
    COLUMNS,
    ROWS,
    adapter,
    apart,
    check,
    check_every_family,
    check_families,
    dino,
    features,
    flux,
    node,
    picture,
    refusal,
    same,
    used,
)
from torch import Tensor

from dinotile import nodes
from dinotile.dino.cache import FeatureCache
from dinotile.flux_patch.guide import PictureGuide
from dinotile.flux_patch.schedule import Strength
from dinotile.flux_patch.tokens import DinoTokens
from dinotile.hosts.comfy.adapter import HostAdapter
from dinotile.hosts.comfy.inject import cond_key
from dinotile.hosts.comfy.model import attach
from dinotile.tiling.moving import moved


@check_every_family
def no_effect():
    """Strength 0, an untrained adapter and the plain model."""
    found = features()
    untrained = node(nodes.NewAdapter, flux(), dino(), "2/3", "all", 32, 8, 1, 2, 0)
    out = {}
    for shape, wrap in (("whole", lambda model: model), ("tiled", tiled)):
        for cfg in (1.0, 2.0):
            plain = sample(wrap(flux()), text(0), text(1), cfg=cfg)
            off = sample(wrap(patched(adapter())), *project(adapter(), found, 0.0), cfg=cfg)
            fresh = sample(wrap(patched(untrained)), *project(untrained, found, 1.0), cfg=cfg)
            unused = sample(wrap(patched(adapter())), text(0), text(1), cfg=cfg)
            on = sample(wrap(patched(adapter())), *project(adapter(), found, 1.0), cfg=cfg)
            name = f"{shape}, cfg {cfg:g}"
            out[name] = {
                "strength 0 is plain": same(off, plain),
                "untrained is plain": same(fresh, plain),
                "patched without tokens is plain": same(unused, plain),
                "trained differs by": apart(on, plain),
            }
    return out


@check_every_family
def each_mechanism_acts():
    out = {}
    found = features()
    plain = sample(tiled(flux()), text(0))
    chosen = adapter("trained")
    for mechanism in chosen.adapter.config.mechanisms:
        others = frozenset(chosen.adapter.config.mechanisms) - {mechanism}
        alone = HostAdapter(replace(chosen.adapter, idle=others, fingerprint=mechanism), chosen.patcher)
        positive, _ = project(alone, found)
        out[mechanism] = apart(sample(tiled(patched(alone)), positive), plain)
    return out


@check_every_family
def other_picture():
    model = tiled(patched(adapter()))
    one = sample(model, project(adapter(), features(0))[0])
    other = sample(model, project(adapter(), features(1))[0])
    again = sample(model, project(adapter(), features(0))[0])
    return {"differs by": apart(other, one), "second run is equal": same(again, one)}


def forgetful():
    """A DINO model that remembers nothing of earlier checks."""
    fresh = node(nodes.LoadDino, "dino.safetensors")
    fresh.cache = FeatureCache()
    return fresh


@check
def computed_once():
    fresh = forgetful()
    for seed in (1, 2, 3):
        found = node(nodes.ExtractPatches, fresh, picture(batch=2), "2/3", 224, 1)
        positive, negative = project(adapter(), found)
        sample(tiled(patched(adapter())), positive, negative, latent=random_latent(1, 2), seed=seed, steps=1)
    counts = {"two pictures, three seeds": fresh.computed}
    fresh = forgetful()
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    for seed in (1, 2, 3):
        upscale(vae=vae, seed=seed, dino=fresh)
    return counts | {"one node, three seeds": fresh.computed}


@check_every_family
def tokens_of_the_own_region():
    """Tokens that hold their own coordinates, attached to a latent that holds its own coordinates."""
    chosen, batch = adapter(), 2
    width, grid = chosen.adapter.config.width, chosen.adapter.config.grid
    fine = (4 * ROWS, 4 * COLUMNS)  # four patches per latent cell
    patches = torch.zeros(batch, *fine, width)
    patches[..., 0] = ((torch.arange(fine[0]) + 0.5) / 4)[:, None]  # in latent cells
    patches[..., 1] = ((torch.arange(fine[1]) + 0.5) / 4)[None, :]
    patches[..., 2] = torch.arange(batch)[:, None, None]
    tokens = DinoTokens(patches, patches.mean((1, 2)))
    positive = attach(text(0), chosen.adapter, PictureGuide(tokens, Strength(1.0)))
    negative = attach(text(1), chosen.adapter, PictureGuide(None, Strength(1.0)))
    module = chosen.adapter.module
    null = torch.cat([module.null_cls[None], module.null_patch.expand(grid * grid, -1)])
    orders = {
        "patch then tile": tiled(patched(chosen)),
        "tile then patch": patched(chosen, tiled(flux())),
        "one by one": tiled(patched(chosen)),
        "moving": tiled(patched(chosen), moving=True),
    }
    out = {}
    for name, model in orders.items():
        worst, seen, calls = 0.0, set(), []

        def see(call, model=model, seen=seen, calls=calls):
            nonlocal worst
            made = last_call()
            rows = call.x.shape[-2], call.x.shape[-1]
            for row, (top, left, image) in enumerate(places(call, model)):
                slot = call.options["cond_or_uncond"][row // batch]
                seen.add((top, left, image, slot))
                cells = (torch.arange(grid) + 0.5) / grid
                expected = null.clone()
                if slot == 0:
                    expected = torch.zeros(1 + grid * grid, width)
                    expected[0] = tokens.cls[image]
                    expected[1:, 0] = (top + cells * rows[0]).repeat_interleave(grid)
                    expected[1:, 1] = (left + cells * rows[1]).repeat(grid)
                    expected[1:, 2] = image
                worst = max(worst, float((made.regions.sequence[row] - expected).abs().max()))
            calls.append(len(call.x))

        watched = watch(model, see)
        if name == "one by one":
            watched = one_by_one(watched)
        latent = where(batch)
        nothing = torch.zeros_like(latent)
        sample(watched, positive, negative, cfg=2.0, steps=1, denoise=0.5, latent=latent, noise=nothing)
        out[name] = {"worst, latent cells": worst, "rows seen": len(seen), "rows per call": calls}
    counts = dict.fromkeys(orders, plan().count) | {"moving": moved(plan(), step=0, seed=5).count}
    return out | {"rows expected": {name: count * batch * 2 for name, count in counts.items()}}


@check_every_family
def dino_mask():
    """A mask over the left part; without overlap the tiles right of it must not notice DINO."""
    of = plan(tile=64, overlap=0, width=256)
    latent = random_latent(1, columns=32)
    mask = torch.zeros(1, 40, 64)
    mask[..., :16] = 1.0  # the first column of tiles
    found = features(height=160, width=256)
    out = {}
    for name in ("trained", "cross"):
        chosen = adapter(name)
        model = tiled(patched(chosen), of)
        off = sample(model, project(chosen, found, 0.0)[0], latent=latent)
        part = sample(model, project(chosen, found, 1.0, mask)[0], latent=latent)
        full = sample(model, project(chosen, found, 1.0)[0], latent=latent)
        ones = sample(model, project(chosen, found, 1.0, torch.ones(1, 5, 8))[0], latent=latent)
        inside, outside = (..., slice(0, 8)), (..., slice(8, 32))
        out[name] = {
            "outside differs from off by": apart(part[outside], off[outside]),
            "inside differs from off by": apart(part[inside], off[inside]),
            "inside differs from full by": apart(part[inside], full[inside]),
            "mask of ones differs from none by": apart(ones, full),
        }
    # within one tile: cross-attention is weighed at each image token
    chosen, weights = adapter("cross"), []
    one = torch.zeros(1, 8, 8)
    one[..., 2:4, 5:7] = 1.0

    def see(call):
        made = last_call()
        weights.append((made.query_weights.clone(), call.x.shape))

    side = 8 * used().family.patch
    small = random_latent(1, rows=side, columns=side)
    found = features(height=64, width=64)
    sample(watch(patched(chosen), see), project(chosen, found, 1.0, one)[0], latent=small, steps=1)
    out["token weights"] = {"are the mask": bool((weights[0][0].view(8, 8) == one[0]).all())}
    return out


@check_families
def sigma_window():
    """start_percent and end_percent by the model's own schedule."""
    chosen, found, used = adapter(), features(), []
    conds = project(chosen, found, start=0.5, end=0.8)
    key = cond_key(chosen.adapter)
    model = watch(patched(chosen), lambda call: used.append((float(call.t[0]), key in call.kwargs)))
    sample(model, conds[0], steps=10, denoise=1.0)
    return {"sigmas with": [s for s, on in used if on], "sigmas without": [s for s, on in used if not on]}


@check
def sigma_above_one():
    """A first sigma that rounding has lifted above 1, the sigma of percent 0."""
    out = {}
    for name, start in (("from the start", 0.0), ("later", 0.5)):
        used = []
        model = watch(
            patched(adapter()),
            lambda call, used=used: used.append((float(call.t[0]), cond_key(adapter().adapter) in call.kwargs)),
        )
        positive, _ = project(adapter(), features(), start=start)
        sample(model, positive, sigmas=torch.tensor([1.0000001, 0.6, 0.3, 0.0]))
        out[name] = used
    return out


@check
def profiles():
    """What each site of the cross-attention is weighed with at the same noise level, and the results."""
    chosen, found = adapter("cross"), features()
    weights, results = {}, {}
    for profile in ("flat", "early", "late"):
        calls = []

        def see(call, calls=calls):
            made = last_call()
            calls.append((float(call.t[0]), made.site_weights[0].tolist()))

        positive, _ = project(chosen, found, 0.8, profile=profile)
        results[profile] = sample(watch(tiled(patched(chosen)), see), positive, steps=2)
        weights[profile] = calls[0]
    return {
        "sites": chosen.adapter.config.sites,
        "first sigma and weights": weights,
        "early differs from flat by": apart(results["early"], results["flat"]),
        "late differs from flat by": apart(results["late"], results["flat"]),
        "late differs from early by": apart(results["late"], results["early"]),
    }


@check_families
def two_adapters():
    a, b = adapter("trained"), adapter("second")
    found = features()

    def both(strength_a: float, strength_b: float) -> Tensor:
        positive, negative = project(a, found, strength_a)
        positive, negative = project(b, found, strength_b, positive=positive, negative=negative)
        return sample(tiled(patched(b, patched(a))), positive, negative, cfg=2.0)

    only_a = sample(tiled(patched(a)), *project(a, found), cfg=2.0)
    only_b = sample(tiled(patched(b)), *project(b, found), cfg=2.0)
    return {
        "with the other off, first is alone": same(both(1, 0), only_a),
        "with the other off, second is alone": same(both(0, 1), only_b),
        "both differ from first by": apart(both(1, 1), only_a),
        "both differ from second by": apart(both(1, 1), only_b),
        "same adapter twice": refusal(lambda: patched(a, patched(a))),
    }
