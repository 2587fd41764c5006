"""Checks for inside.py: tiles and guidance on models of every family, tiny and random."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import comfy.latent_formats
import comfy.samplers
import torch
from inside_sampling import one_by_one, plan, tiled, watch
from inside_tools import CHECKS, adapter, apart, check, dino, node, picture, refusal, same
from inside_zoo import KINDS, built, decoder, drawn, text

from dinotile import nodes
from dinotile.flux_patch.latents import Latents
from dinotile.hosts.comfy.host import ComfyHost
from dinotile.hosts.comfy.latents import latents_of
from dinotile.hosts.comfy.sampling import denoise_sigmas

TOKENS = 4, 6  # of a canvas, in what tiles keep to
TILE = 3


def latent(model, seed: int = 1, batch: int = 1, extra: int = 0):
    of = latents_of(model)
    rows, columns = (side * of.patch + extra for side in TOKENS)
    frames = [1] if of.framed else []
    return drawn(batch, of.channels, *frames, rows, columns, seed=seed)


def planned(model, of=None, *, tile: int = TILE, extra: int = 0):
    grid, cell = latents_of(model).token, latents_of(model).cell
    height, width = (side * grid + extra * cell for side in TOKENS)
    return node(nodes.PlanTiles, width, height, tile * grid, grid, model=model if of is None else of)[0]


def sample(model, name, latents, *, cfg=2.0, noise=None, steps=2, more=None, sampler="euler"):
    guider = comfy.samplers.CFGGuider(model)
    positive, negative = ([[c, {**d, **(more or {})}] for c, d in text(name, seed)] for seed in (0, 1))
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    noise = drawn(*latents.shape, seed=2) if noise is None else noise
    sigmas = denoise_sigmas(model, "simple", steps=steps, denoise=0.6)
    chosen = comfy.samplers.sampler_object(sampler)
    return guider.sample(noise, latents, chosen, sigmas, disable_pbar=True, seed=5)


def small(model):
    """A picture of which the canvas shows twice the size."""
    height, width = (side * latents_of(model).token // 2 for side in TOKENS)
    return picture(3, height=height, width=width)


def family(name):
    """Tiles on one family, with an anchor and without."""
    model, still = built(name), built(name, still=True)
    of, latents = latents_of(model), latent(model, batch=2)
    flow = hasattr(model.get_model_object("model_sampling"), "shift")
    given = latents[:1]
    noise = model.model.process_latent_in(given.clone()) if flow else torch.zeros_like(given)
    back = sample(tiled(still, planned(still)), name, given, noise=noise)
    calls = []
    seen = watch(tiled(model, planned(model)), lambda call: calls.append(len(call.x)))
    together = sample(seen, name, latents)
    singles = sample(one_by_one(tiled(model, planned(model))), name, latents)
    whole = sample(model, name, latents)
    one = sample(tiled(model, planned(model, tile=max(TOKENS))), name, latents)
    odd, image = latent(model, extra=1), small(model)
    rows, columns = given.shape[-2:]
    area = {"area": (rows - 3, columns - 3, 1, 2), "strength": 0.7}
    in_one, in_none = (
        sample(each, name, given, steps=1, more=area)
        for each in (tiled(model, planned(model, tile=max(TOKENS))), model)
    )
    anchored = node(nodes.SourceAnchor, model, image, decoder(model), 1.0, 1.0, 0.05, 1)
    plain, led = (sample(tiled(one, planned(model)), name, given, cfg=1.0, steps=1) for one in (model, anchored))
    return {
        "class": type(model.model.diffusion_model).__name__,
        "grid": [of.channels, of.cell, of.patch, of.framed],
        "back": apart(back, given),
        "one tile": same(one, whole),
        "area in one tile": apart(in_one, in_none),
        "one by one": apart(singles, together),
        "rows": max(calls),
        "tiled": apart(together, whole),
        "finite": bool(together.isfinite().all()),
        "shape": together.shape == latents.shape,
        "odd": list(sample(tiled(model, planned(model, extra=1)), name, odd, cfg=1.0, steps=1).shape)
        == list(odd.shape),
        "guided": apart(led, plain),
        "guided, finite": bool(led.isfinite().all()),
        "moving": bool(sample(tiled(model, planned(model), moving=True), name, given, cfg=1.0).isfinite().all()),
    }


def guided_family(name):
    """DINO guidance by a small VAE of the family's latents, and the whole path in one node."""
    model = built(name)
    vae, grid, image = decoder(model), latents_of(model).token, small(model)
    latents, words = latent(model), text(name)
    plain = sample(model, name, latents, cfg=1.0, steps=1)
    led = sample(
        node(nodes.DinoGuidance, model, dino(), image, vae, 1.0, 1.0, 0.05, 1), name, latents, cfg=1.0, steps=1
    )

    def upscaled(**guidance):
        return node(
            nodes.Upscale, image[:, 1:, 2:], model, vae, words, words, 2.0, 0.5, 1, "euler", "simple", 1.0, TILE * grid, grid,
            1.0, 0, decoder=vae, denoise_mask=torch.ones(1, image.shape[1] - 1, image.shape[2] - 2), **guidance,
        )  # fmt: skip

    free, anchored, result = upscaled(), upscaled(anchor=1.0), upscaled(guide=1.0, dino=dino())
    return {
        "led": apart(led, plain),
        "finite": all(bool(one.isfinite().all()) for one in (led, anchored, result)),
        "size": list(result.shape) == [1, 2 * (image.shape[1] - 1), 2 * (image.shape[2] - 2), 3],
        "one node": [apart(anchored, free), apart(result, free)],
    }


def references(name):
    """Reference latents of the canvas's own size: how far those of a tile are from its part of them."""
    model = built(name)
    shown, seen = latent(model, seed=9), []
    wanted = model.model.process_latent_in(shown.clone())

    def look(call):
        (found,) = call.kwargs["ref_latents"]
        for row, where in zip(found, call.options["dinotile"]["tiles"], strict=True):
            left, top, right, bottom = (side // latents_of(model).cell for side in where["box"])
            seen.append(float((row - wanted[0, ..., top:bottom, left:right]).abs().max()))

    told = {"reference_latents": [shown], "reference_latents_method": "index"}
    sample(watch(tiled(model, planned(model)), look), name, latent(model), cfg=1.0, more=told)
    return {"rows": len(seen), "worst": max(seen)}


def masks_of_pictures(name):
    """Two texts, each with a mask for either of two pictures: which text each picture has, with masks of 1 and of 0."""
    model = built(name)
    latents = latent(model, batch=2)
    rows, columns = latents.shape[-2:]
    shares = torch.tensor([1.0, 0.0])[:, None, None].expand(2, rows, columns)

    def made(*positive):
        guider = comfy.samplers.CFGGuider(tiled(model, planned(model)))
        guider.set_conds([[c, {**d, **more}] for seed, more in positive for c, d in text(name, seed)], text(name, 0))
        guider.set_cfg(1.0)
        noise, euler = drawn(*latents.shape, seed=2), comfy.samplers.sampler_object("euler")
        return guider.sample(noise, latents, euler, torch.tensor([0.8, 0.0]), disable_pbar=True, seed=5)

    first, second = (made((seed, {})) for seed in (1, 2))
    found = made((1, {"mask": shares}), (2, {"mask": 1 - shares}))
    three, latents = torch.ones(3, rows, columns), latent(model, batch=4)
    return {
        "right": [apart(found[0], first[0]), apart(found[1], second[1])],
        "wrong": [apart(found[0], second[0]), apart(found[1], first[1])],
        "three for four": refusal(lambda: made((1, {"mask": three}))),
    }


@check
def told_size():
    """SDXL is told the size of a tile, not of the canvas, and that of the canvas where there are no tiles."""
    model, seen, pooled = built("SDXL"), [], text("SDXL")[0][1]["pooled_output"]
    of = planned(model)
    for one in (model, tiled(model, of)):
        sample(watch(one, lambda call: seen.append(call.kwargs["y"][0])), "SDXL", latent(model), cfg=1.0, steps=1)
    told = [
        model.model.encode_adm(pooled_output=pooled, width=width, height=height, device="cpu")[0]
        for width, height in ((of.width, of.height), (of.tile_width, of.tile_height))
    ]
    return {"right": [same(a, b) for a, b in zip(seen, told, strict=True)], "differ": not same(*told)}


@check
def rows_of_the_table():
    """The families that a host without an adapter is of, and whether the table has the latents that the model says it has."""
    models = {name: built(name) for name in ("FLUX.1", "FLUX.2", "Chroma", "Krea 2")}
    hosts = {name: ComfyHost(model, decoder(model)) for name, model in models.items()}
    told = [field.name for field in fields(Latents)]
    return {
        host.family.name: [[getattr(of, part) for part in told] for of in (host.family, host.latents)]
        for host in hosts.values()
    }


@check
def families_refused():
    """What does not fit, and what makes no pictures."""
    qwen, flux2, unet = built("Qwen-Image"), built("FLUX.2"), built("SD 1.5")
    image = picture(height=32, width=48)
    video = torch.zeros(1, 16, 3, 8, 12)
    sound, solids = flux2.clone(), flux2.clone()
    sound.add_object_patch("latent_format", comfy.latent_formats.StableAudio1())
    solids.add_object_patch("latent_format", comfy.latent_formats.TripoSplat())

    def anchored(model, vae):
        return node(nodes.SourceAnchor, model, image, vae, 1.0, 1.0, 0.05, 1)

    def upscaled(vae, small=None):
        words = text("Qwen-Image")
        return node(
            nodes.Upscale, image, qwen, vae, words, words, 2.0, 0.5, 1, "euler", "simple", 1.0, 64, 16, 1.0, 0, decoder=small
        )  # fmt: skip

    said = {
        "plan of FLUX.1 for FLUX.2": lambda: tiled(flux2, planned(flux2, built("FLUX.1"))),
        "plan of no model for a UNet": lambda: tiled(unet, plan()),
        "tile off a UNet's grid": lambda: node(nodes.PlanTiles, 512, 512, 208, 16, model=unet),
        "one node off a UNet's grid": lambda: node(
            nodes.Upscale,
            image,
            unet,
            decoder(unet),
            text("SD 1.5"),
            text("SD 1.5"),
            2.0,
            0.5,
            1,
            "euler",
            "simple",
            1.0,
            208,
            16,
            1.0,
            0,
        ),  # fmt: skip
        "video": lambda: sample(tiled(qwen, planned(qwen)), "Qwen-Image", video, cfg=1.0),
        "video, guided": lambda: sample(anchored(qwen, decoder(qwen)), "Qwen-Image", video, cfg=1.0),
        "sound": lambda: tiled(sound, plan()),
        "solids": lambda: node(nodes.PlanTiles, 512, 512, 256, 16, model=solids),
        "decoder of FLUX.1 for Qwen-Image": lambda: anchored(qwen, decoder(built("FLUX.1"))),
        "VAE of SD 1.5 for Qwen-Image": lambda: upscaled(decoder(unet)),
        "small VAE of FLUX.2 for Qwen-Image": lambda: upscaled(decoder(qwen), decoder(flux2)),
    }
    return {name: refusal(action) for name, action in said.items()}


@check
def adapters_refused():
    """Models that no adapter knows, and what is said to who asks for one, or for an empty text."""
    others = [name for name in KINDS if name not in ("FLUX.1", "FLUX.2", "Chroma", "Krea 2")]
    models = {name: built(name) for name in others}
    z_image = models["Z-Image"]
    new = {name: partial(node, nodes.NewAdapter, model, dino(), "2/3", "all", 32, 8) for name, model in models.items()}
    said = {name: partial(action, 1, 2, 0) for name, action in new.items()}
    said["patched"] = lambda: node(nodes.PatchFlux, z_image, adapter())
    said["family"] = lambda: ComfyHost(z_image, decoder(z_image)).family
    said["empty"] = lambda: node(nodes.EmptyConditioning, z_image, 8, 3.5)
    return {name: refusal(action) for name, action in said.items()}


for kind in KINDS:
    CHECKS[f"family {kind}"] = partial(family, kind)
for kind in ("FLUX.2", "Z-Image", "Qwen-Image", "SDXL"):
    CHECKS[f"guided {kind}"] = partial(guided_family, kind)
for kind in ("FLUX.1", "FLUX.2", "Z-Image", "Qwen-Image", "Krea 2", "OmniGen 2"):
    CHECKS[f"references {kind}"] = partial(references, kind)
for kind in ("SDXL", "Qwen-Image"):  # whose latents have no frames, and one
    CHECKS[f"masks {kind}"] = partial(masks_of_pictures, kind)
