"""Checks for inside.py: the time around FLUX, and runs that do not end well."""

from __future__ import annotations

import gc
import time

import comfy.model_management as management
import comfy.sd
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from inside_sampling import one_by_one, patched, plan, project, random_latent, sample, text, tiled, upscale, watch
from inside_tools import BASE, DEMO, DEMO_FLUX, adapter, check, dino, features, flux, node, same

from dinotile import nodes
from dinotile.dino.feature_map import FeatureMap


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
