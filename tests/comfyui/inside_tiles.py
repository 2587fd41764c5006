"""Checks for inside.py: tiles through any sampler, compiled and low-precision models, the time around FLUX."""

from __future__ import annotations

import gc
import random
import time

import comfy.model_management as management
import comfy.sd
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from inside_tools import (
    BASE,
    DEMO,
    DEMO_FLUX,
    adapter,
    apart,
    check,
    check_families,
    counted,
    dino,
    features,
    flux,
    near,
    node,
    one_by_one,
    patched,
    plan,
    project,
    random_latent,
    same,
    sample,
    text,
    tiled,
    upscale,
    used,
    watch,
)

from dinotile import nodes
from dinotile.dino.feature_map import FeatureMap


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


@check
def interrupted():
    model = tiled(patched(adapter()))
    positive, negative = project(adapter(), features())
    reference = sample(model, positive, negative)
    calls = []

    def stop(call):
        calls.append(len(call.x))
        if len(calls) == 5:
            management.interrupt_current_processing()

    try:
        sample(one_by_one(watch(model, stop)), positive, negative)
        said = "nothing was raised"
    except management.InterruptProcessingException as error:
        said = type(error).__name__
    after = sample(model, positive, negative)
    return {"said": said, "calls": len(calls), "next run is equal": same(after, reference)}


def tensor_work(events, *, of: str) -> float:
    """Microseconds of tensor operations whose nearest mark is ``of``."""

    def mark(event) -> str:
        while event is not None and event.name not in ("pack", "fusion", "model"):
            event = event.cpu_parent
        return "" if event is None else event.name

    operations = [event for event in events if event.name.startswith("aten::")]
    whole = [e for e in operations if e.cpu_parent is None or not e.cpu_parent.name.startswith("aten::")]
    return sum(event.cpu_time_total for event in whole if mark(event) == of)


@check
def time_outside_the_model():
    """2048 x 2048 px in tiles of 256 px on the demo's models: wall time of planning and a run, and what is not the FLUX module.

    "fusion" is the tensor work of the host's own function around the model: cropping, batching, weighing and fusing of tiles.
    What then remains is the sampler's step and Python of the host.
    """
    side = 2048
    model, chosen = flux(DEMO_FLUX), adapter(DEMO)
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(1, 37, 37, 128, generator=generator)
    found = FeatureMap(patches, patches.mean((1, 2)), "dinov2-demo", chosen.adapter.config.layers, (side, side))
    empty = node(nodes.EmptyConditioning, model, 8, 3.5)
    positive, negative = project(chosen, found, 0.5, positive=empty, negative=empty)
    spent = dict.fromkeys(("planning", "model", "run", "conds", "apply"), 0.0)
    latent = random_latent(1, rows=side // 8, columns=side // 8)

    def clock(name: str, sign: int):
        """A wrapper that adds its inner time to ``spent``: outside of the pack's with +, inside of them with -."""

        def timed(executor, *args, **kwargs):
            start = time.perf_counter()
            try:
                return executor(*args, **kwargs)
            finally:
                spent[name] += sign * (time.perf_counter() - start)

        return timed

    of = clock("planning", 1)(plan, tile=256, overlap=32, height=side, width=side)

    def mark(name: str):
        def wrapper(executor, *args, **kwargs):
            with torch.profiler.record_function(name):
                return executor(*args, **kwargs)

        return wrapper

    def between(before: dict, after: dict):
        """The tiled and patched model, with wrappers around and inside of the pack's own."""
        outer = model.clone()
        for kind, wrapper in before.items():
            outer.add_wrapper_with_key(kind, "dinotile_test_outer", wrapper)
        wrapped = tiled(patched(chosen, outer), of)
        for kind, wrapper in after.items():
            wrapped.add_wrapper_with_key(kind, "dinotile_test_inner", wrapper)
        return wrapped

    kinds = {WrappersMP.CALC_COND_BATCH: "conds", WrappersMP.APPLY_MODEL: "apply"}
    clocked = kinds | {WrappersMP.OUTER_SAMPLE: "run"}
    inner, forward = model.model.diffusion_model, model.model.diffusion_model.forward
    wrapped = between(
        {k: clock(name, 1) for k, name in clocked.items()}, {k: clock(name, -1) for k, name in clocked.items()}
    )
    sample(wrapped, positive, negative, steps=2, denoise=0.3, latent=latent)  # warm
    spent.update(model=0.0, run=0.0, conds=0.0, apply=0.0)
    inner.forward = lambda *args, **kwargs: clock("model", 1)(forward, *args, **kwargs)
    start = time.perf_counter()
    sample(wrapped, positive, negative, steps=2, denoise=0.3, latent=latent)
    wall = spent["planning"] + time.perf_counter() - start
    names = {"conds": "fusion", "apply": "model"}
    wrapped = between(dict.fromkeys(kinds, mark("pack")), {k: mark(names[name]) for k, name in kinds.items()})
    inner.forward = forward
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        sample(wrapped, positive, negative, steps=2, denoise=0.3, latent=latent)
    return {
        "tiles": of.count,
        "wall": wall,
        "share of fusion": tensor_work(profile.events(), of="fusion") / 1e6 / wall,
        "model": spent["model"],
        "share of planning and windows": (spent["planning"] + spent["run"]) / wall,
        "share of the pack": (spent["planning"] + spent["run"] + spent["conds"] + spent["apply"]) / wall,
        "share outside the model": 1 - spent["model"] / wall,
    }


def stopped(action) -> str:
    """What an action said that a model call interrupted, its frames kept as garbage in a circle, as an exception's often are."""
    try:
        action()
    except RuntimeError as error:
        error.circle = error
        return str(error)
    return "nothing was raised"


@check
def after_errors():
    """Models that ComfyUI takes for leaked, after an error inside a sampling through clones that nobody else holds."""

    def fail(call):
        raise RuntimeError("on purpose")

    conds = project(adapter(), features())
    failing = watch(flux("flux-pooled"), fail)  # the loader's own, which outlives the run
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    paths = {
        "tiled": lambda: sample(tiled(failing), text(0)),
        "patched and tiled": lambda: sample(tiled(patched(adapter(), failing)), *conds[:1]),
        "tiled and patched": lambda: sample(patched(adapter(), tiled(failing)), *conds[:1]),
        "one node": lambda: upscale(vae=vae, dino=dino(), model=failing),
    }
    out = {}
    for name, path in paths.items():
        management.unload_all_models()
        gc.disable()  # or some dict or other sets it off in between
        said = stopped(path)
        gc.enable()
        gc.collect()
        leaked = [type(m.real_model()).__name__ for m in management.current_loaded_models if m.is_dead()]
        out[name] = {"said": said, "leaked": leaked, "loaded": len(management.current_loaded_models)}
    return out
