"""Checks for inside.py: the one path's samplers in both forms, with a mask of what is redrawn."""

from __future__ import annotations

from itertools import product

import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from inside_sampling import plan, random_latent, text
from inside_tools import BASE, apart, check, flux

from dinotile.hosts.comfy.host import ComfyHost
from dinotile.hosts.comfy.sampling import ComfySampler
from dinotile.hosts.host import Text
from dinotile.upscaling.joint import sample, seeded_noise


@check
def denoise_mask():
    """ComfySampler hands the mask to the host's samplers; JointEuler's ``sample`` does the same by itself."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    host, latents, words = ComfyHost(flux(), vae), random_latent(3), text(0)
    mask = torch.rand(1, 1, *latents.shape[2:], generator=torch.Generator().manual_seed(4))
    mask[..., : latents.shape[3] // 2] = 0
    sampler = ComfySampler(host, words, words, "euler", "simple", 1.0, 3, 0.6, 5)
    by_host = sampler(latents, plan=plan(), guide=None, denoise_mask=mask)
    whole = sampler(latents, plan=plan(), guide=None)
    spoken = Text(words[0][0], words[0][1]["pooled_output"])
    by_us = sample(
        lambda x, sigma, rows: host.velocity(x, torch.full((len(x),), sigma), text=spoken),
        latents,
        noise=seeded_noise(latents.shape, seed=5),
        sigmas=sampler.sigmas().tolist(),
        plan=plan().latent,
        denoise_mask=mask,
    )
    return {
        "both differ by": apart(by_us, by_host),
        "what is kept differs by": float((by_host - latents)[mask.expand_as(latents) == 0].abs().max()),
        "the mask acts by": apart(by_host, whole),
    }


@check
def noise_levels():
    """*KSampler*'s for every sampler and scheduler, beside the one path's."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    model, cpu = flux(), torch.device("cpu")
    names = comfy.samplers.SAMPLER_NAMES, comfy.samplers.SCHEDULER_NAMES
    cases = list(product(*names, ((1, 1.0), (6, 1.0), (4, 0.5))))
    found = []
    for sampler, scheduler, (steps, denoise) in cases:
        if (scheduler, steps) == ("kl_optimal", 1):  # which the host divides by 0
            continue
        theirs = comfy.samplers.KSampler(model, steps, cpu, sampler, scheduler, denoise).sigmas
        ours = ComfySampler(ComfyHost(model, vae), [], [], sampler, scheduler, 1.0, steps, denoise, 5).sigmas()
        if not torch.equal(ours, theirs):
            found.append([sampler, scheduler, steps, denoise])
    return {"tried": len(cases), "apart": found}
