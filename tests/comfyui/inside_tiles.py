"""Checks for inside.py: tiles through any sampler, models of low precision."""

from __future__ import annotations

import random

import comfy.model_management as management
import comfy.sd
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from inside_sampling import counted, one_by_one, patched, plan, project, random_latent, sample, text, tiled
from inside_tools import BASE, adapter, apart, check, check_families, features, flux, near, same, used


@check
def batching():
    found = features(batch=2)
    positive, negative = project(adapter(), found)
    model = tiled(patched(adapter()))
    latent, noise = random_latent(1, 2), random_latent(2, 2)
    together, calls = counted(model)
    reference = sample(together, positive, negative, cfg=2.0, latent=latent, noise=noise)
    single, calls_single = counted(model)
    alone = sample(one_by_one(single), positive, negative, cfg=2.0, latent=latent, noise=noise)

    shuffled = model.clone()

    def shuffle(executor, inner, conds, *args, **kwargs):
        mixed = [random.Random(3).sample(cond, len(cond)) for cond in conds]
        return executor(inner, mixed, *args, **kwargs)

    shuffled.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test_shuffle", shuffle)
    order = sample(shuffled, positive, negative, cfg=2.0, latent=latent, noise=noise)
    singles = []
    for image in range(2):
        one = found.with_patches(found.patches[image, None], found.cls[image, None])
        conds = project(adapter(), one)
        singles.append(sample(model, *conds, cfg=2.0, latent=latent[image, None], noise=noise[image, None]))
    other_order = sample(patched(adapter(), tiled(flux())), positive, negative, cfg=2.0, latent=latent, noise=noise)
    return {
        "rows per call, together": calls,
        "rows per call, one by one": calls_single,
        "one by one differs by": apart(alone, reference),
        "shuffled differs by": apart(order, reference),
        "batch 2 from singles differs by": apart(reference, torch.cat(singles)),
        "tile then patch differs by": apart(other_order, reference),
        "two pictures differ by": apart(reference[0], reference[1]),
    }


@check
def pictures_and_latents():
    """Two pictures for four latents: they take turns."""
    positive, negative = project(adapter(), features(batch=2))
    latent, noise = random_latent(1, 2), random_latent(2, 2)
    out = {}
    for shape, model in (("whole", patched(adapter())), ("tiled", tiled(patched(adapter())))):
        two = sample(model, positive, negative, cfg=2.0, latent=latent, noise=noise)
        latents, noises = latent.repeat(2, 1, 1, 1), noise.repeat(2, 1, 1, 1)
        four = sample(model, positive, negative, cfg=2.0, latent=latents, noise=noises)
        out[shape] = {"four differ from twice two by": apart(four, two.repeat(2, 1, 1, 1))}
    return out


@check
def repeated():
    """Second run, clones, reload."""
    found = features()
    positive, negative = project(adapter(), found)
    plain_before = sample(flux(), text(0), text(1), cfg=2.0)
    wrapped = tiled(patched(adapter()))
    first = sample(wrapped, positive, negative, cfg=2.0)
    second = sample(wrapped, positive, negative, cfg=2.0)
    plain_after = sample(flux(), text(0), text(1), cfg=2.0)
    options = flux().model_options.get("transformer_options", {})
    left = sorted([*options.get("wrappers", {}), *options.get("patches", {}), *flux().wrappers])
    whole = sample(patched(adapter()), positive, negative, cfg=2.0)
    management.unload_all_models()
    unloaded = len(management.current_loaded_models)
    third = sample(wrapped, positive, negative, cfg=2.0)
    management.free_memory(1e30, torch.device("cpu"))
    fourth = sample(wrapped, positive, negative, cfg=2.0)
    return {
        "second run is equal": same(second, first),
        "plain model is as before": same(plain_after, plain_before),
        "left on the plain model": left,
        "models loaded after unload_all_models": unloaded,
        "after unload is equal": near(third, first),
        "after free_memory is equal": near(fourth, first),
        "tiled differs from whole by": apart(first, whole),
    }


@check
def one_tile():
    found = features()
    positive, negative = project(adapter(), found)
    whole = sample(patched(adapter()), positive, negative, cfg=2.0)
    one = sample(tiled(patched(adapter()), plan(tile=256)), positive, negative, cfg=2.0)
    return {"equal": same(one, whole), "differs by": apart(one, whole)}


@check
def identity():
    """A FLUX whose velocity is zero gives back what it got."""
    model = flux("flux-still")
    latent = random_latent(1)
    out = {}
    for name, wrapped in (("tiled", tiled(model)), ("tiled and patched", tiled(patched(adapter(), model)))):
        noise = model.model.process_latent_in(latent.clone())  # then any mix of the two is the latent itself
        back = sample(
            wrapped, project(adapter(), features())[0] if "patched" in name else text(0), latent=latent, noise=noise
        )
        out[name] = apart(back, latent)
    return out


@check_families
def low_precision():
    fp8 = torch.float8_e4m3fn
    path = str(BASE / "models" / "diffusion_models" / f"{used().flux}.safetensors")
    model = comfy.sd.load_diffusion_model(path, model_options={"dtype": fp8})
    wrapped = patched(adapter(), model)
    patches = wrapped.model_options["transformer_options"]["patches"]
    ours = [*patches["attn1_patch"], *patches["attn1_output_patch"]]
    found = features()
    on = sample(tiled(wrapped), *project(adapter(), found))
    off = sample(tiled(wrapped), *project(adapter(), found, 0.0))
    plain = sample(tiled(model), text(0), text(1))
    return {
        "weights": str(model.model.diffusion_model.double_blocks[0].img_attn.proj.weight.dtype),
        "computes in": str(model.model.get_dtype_inference()),
        "to returns itself": [patch.to(fp8) is patch and patch.to(torch.device("cpu")) is patch for patch in ours],
        "adapter after": sorted({str(p.dtype) for p in adapter().adapter.module.parameters()}),
        "finite": bool(on.isfinite().all()),
        "strength 0 is plain": same(off, plain),
        "on differs by": apart(on, plain),
        "differs from fp32 by": apart(on, sample(tiled(patched(adapter())), *project(adapter(), found))),
    }


@check
def samplers():
    model = tiled(patched(adapter()))
    positive, negative = project(adapter(), features())
    out = {}
    for name in ("euler", "dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde", "heun", "uni_pc"):
        result = sample(model, positive, negative, sampler=name, steps=3)
        again = sample(model, positive, negative, sampler=name, steps=3)
        out[name] = {"finite": bool(result.isfinite().all()), "second run differs by": apart(again, result)}
    dev = tiled(patched(adapter(), flux("flux-dev")))
    result = sample(dev, positive, negative)
    stronger = [[c, {**d, "guidance": 7.0}] for c, d in positive]
    out["flux with guidance"] = {
        "finite": bool(result.isfinite().all()),
        "guidance changes it by": apart(sample(dev, stronger, negative), result),
    }
    return out
