"""Checks for inside.py: detail masks as a lower denoise, and prompts that reach the tiles of their regions only."""

from __future__ import annotations

import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from inside_sampling import plan, random_latent, sample, text, tiled, watch
from inside_tools import BASE, COLUMNS, HEIGHT, ROWS, WIDTH, apart, check, dino, features, flux, node, picture, refusal

from dinotile import nodes
from dinotile.dino.feature_map import FeatureMap
from dinotile.hosts.comfy.host import ComfyHost
from dinotile.hosts.comfy.sampling import ComfySampler, run_sampler
from dinotile.hosts.host import Text
from dinotile.upscaling.joint import sample as joint_sample
from dinotile.upscaling.joint import seeded_noise
from nodes import SetLatentNoiseMask


def tiny_vae():
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))


@check
def soft_masks():
    """What is redrawn less, by our node's sampler, by ours without the host, and by the host's own nodes."""
    host, latents, words = ComfyHost(flux(), tiny_vae()), random_latent(3), text(0)
    values = torch.tensor([0.0, 0.3, 0.55, 0.9, 1.0])
    mask = values[torch.randint(0, 5, (1, 1, ROWS, COLUMNS), generator=torch.Generator().manual_seed(4))]
    made = {
        way: ComfySampler(host, words, words, "euler", "simple", 1.0, 4, 0.6, 5, False, way) for way in (False, True)
    }
    sigmas = made[True].sigmas()
    by_host = made[True](latents, plan=plan(), guide=None, denoise_mask=mask)
    spoken = Text(words[0][0], words[0][1]["pooled_output"])
    by_us = joint_sample(
        lambda x, sigma, rows: host.velocity(x, torch.full((len(x),), sigma), text=spoken),
        latents,
        noise=seeded_noise(latents.shape, seed=5),
        sigmas=sigmas.tolist(),
        plan=plan().latent,
        denoise_mask=mask,
        differential=True,
    )
    masked = SetLatentNoiseMask().set_mask({"samples": host.model.model.process_latent_out(latents)}, mask[:, 0])[0]
    by_core = through_the_host(DifferentialDiffusion.execute(tiled(flux())).args[0], words, masked, sigmas)
    blended = made[False](latents, plan=plan(), guide=None, denoise_mask=mask)
    half = torch.full_like(mask, 0.55)
    return {
        "both differ by": apart(by_us, by_host),
        "the host's nodes differ by": apart(host.model.model.process_latent_in(by_core), by_host),
        "blending differs by": apart(blended, by_host),
        "what is kept differs by": float((by_host - latents)[mask.expand_as(latents) == 0].abs().max()),
        "half of it is half the run": apart(
            made[True](latents, plan=plan(), guide=None, denoise_mask=half),
            started_at(latents, words, sigmas[sigmas <= 0.55 * sigmas[0]]),
        ),
    }


def through_the_host(model, words, latent, sigmas):
    """*SamplerCustomAdvanced*, with the noise of ``ComfySampler``."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(words, words)
    guider.set_cfg(1.0)

    class Noise:
        seed = 5

        def generate_noise(self, latent):
            return seeded_noise(latent["samples"].shape, seed=5)

    out, _ = run_sampler(Noise(), guider, comfy.samplers.sampler_object("euler"), sigmas, latent)
    return out["samples"]


def started_at(latents, words, sigmas):
    """A run of those noise levels, from the model's latents to the model's latents."""
    model = tiled(flux())
    latents = model.model.process_latent_out(latents)
    out = sample(model, words, latent=latents, noise=seeded_noise(latents.shape, seed=5), sigmas=sigmas)
    return model.model.process_latent_in(out)


@check
def adaptive_upscale():
    """The one node with DINO and no adapter, and the mask that it makes of its own."""
    image, vae = picture(height=64, width=80), tiny_vae()

    def upscaled(**more):
        return node(
            nodes.Upscale,
            image,
            flux(),
            vae,
            text(0),
            text(1),
            1.0,
            0.8,
            4,
            "euler",
            "simple",
            1.0,
            64,
            16,
            1.0,
            0,
            **more,
        )

    off = upscaled()
    found = features()
    mask = node(nodes.DetailMask, found, picture())
    protect = torch.zeros(1, HEIGHT, WIDTH)
    protect[..., : WIDTH // 2] = 1
    spared = node(nodes.DetailMask, found, picture(), protect=protect)
    return {
        "adaptive changes it by": apart(upscaled(dino=dino(), adaptive=1.0), off),
        "mask": [list(mask.shape), float(mask.min()), float(mask.max())],
        "protected": float(spared[..., : WIDTH // 2 - 2].max()),
        "elsewhere alike": bool(torch.equal(spared[..., WIDTH // 2 + 2 :], mask[..., WIDTH // 2 + 2 :])),
        "DINO alone": refusal(lambda: upscaled(dino=dino())),
        "adaptive alone": refusal(lambda: upscaled(adaptive=1.0)),
        "other protect": refusal(lambda: node(nodes.DetailMask, found, protect=torch.zeros(1, 50, 10))),
    }


@check
def prompts_by_region():
    """Which prompts each tile is run with, and where the regions lie: a third on the left, the rest in two by height."""
    labels = torch.zeros(20, 28, dtype=torch.long)
    labels[10:], labels[:, :9] = 1, 2
    generator = torch.Generator().manual_seed(0)
    kinds, noise = (torch.randn(*shape, generator=generator) for shape in ((3, 32), (1, 20, 28, 32)))
    found = FeatureMap(kinds[labels][None] + 0.2 * noise, kinds[:1], "dinov2-small", "3", (HEIGHT, WIDTH))
    regions, drawn, count = node(nodes.FindRegions, found, 0)
    words = [text(seed) for seed in (20, 21, 22)]
    said = node(nodes.PromptByRegion, regions, words[2], prompt_1=words[0], prompt_2=words[1])  # and the fallback
    seen: dict[tuple, set[int]] = {}

    def see(call):
        for row, context in zip(call.options["dinotile"]["tiles"], call.context, strict=True):
            known = [number for number, each in enumerate(words) if torch.equal(context, each[0][0][0])]
            seen.setdefault(row["box"], set()).update(known)

    mixed = sample(watch(tiled(flux()), see), said, steps=1)
    cells = torch.nn.functional.interpolate(regions[None], size=(ROWS, COLUMNS), mode="bilinear")[0]  # as the host does
    boxes = {box: [side // 8 for side in box] for box in seen}
    there = {
        box: {n for n in range(count) if bool(cells[n, top:bottom, left:right].any())}
        for box, (left, top, right, bottom) in boxes.items()
    }
    alone = [sample(tiled(flux()), each, steps=1) for each in words]
    return {
        "count": count,
        "sizes": [list(regions.shape), list(drawn.shape)],
        "tiles": [len(seen), plan().count],
        "each tile has the prompts of what is in it": seen == there,
        "prompts of the tiles": sorted(len(each) for each in seen.values()),
        "a corner of one region is that prompt's alone": min(
            apart(mixed[..., :4, :4], each[..., :4, :4]) for each in alone
        ),
        "prompts differ by": apart(alone[0], alone[1]),
        "a prompt too many": refusal(lambda: node(nodes.PromptByRegion, regions, words[0], prompt_5=words[1])),
        "not finite": refusal(lambda: node(nodes.PromptByRegion, regions / 0, words[0], prompt_1=words[1])),
    }
