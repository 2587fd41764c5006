"""Runs inside the host's Python like inside.py: torch.compile sees DINO, or no DINO, in whatever order the models come; what
DINO adds to a block.

python inside_compile.py HOST PACK BASE OUT [CHECK ...] writes OUT/numbers.json, which test_compile.py holds to account.
"""

from __future__ import annotations

import contextlib

from inside_sampling import one_by_one, patched, plan, project, random_latent, sample, text, tiled
from inside_tools import (  # makes the host's and the pack's modules importable
    CONTEXT,
    adapter,
    apart,
    check,
    check_every_family,
    features,
    flux,
    main,
    used,
    using,
)

# isort: split

import comfy.ldm.flux.math as flux_math
import comfy.ldm.krea2.model as krea2
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from torch._dynamo.utils import counters

from dinotile.benchmarks.comfy import cost
from dinotile.flux_patch.families import FLUX1
from dinotile.flux_patch.redux import ReduxTokens
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.comfy.shown import show


def compiled(model, keys=("diffusion_model",)):
    """As the host's TorchCompileModel does it; keys: what is compiled, each for itself."""
    model = model.clone(disable_dynamic=True)
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=model, backend="eager", options=options, keys=list(keys))
    return model


@contextlib.contextmanager
def fused_attention():
    """As with --use-pytorch-cross-attention, and as on GPUs: the host's attention on CPUs breaks every graph."""
    places = (flux_math, "optimized_attention"), (krea2, "optimized_attention_masked")
    before = [getattr(*place) for place in places]
    for place in places:
        setattr(*place, attention_pytorch)
    torch._dynamo.reset()
    try:
        yield
    finally:
        for place, attention in zip(places, before, strict=True):
            setattr(*place, attention)
        torch._dynamo.reset()


def run(model, conds, *, rows=8, batch=1, **more):
    return sample(model, *conds, latent=random_latent(1, batch, rows, 8), **{"steps": 1, **more})


def kinds() -> dict:
    """Models by name, and the conditionings that belong to each."""
    found, plain = features(), (text(0), text(1))
    a, b = adapter("cross"), adapter("trained")
    both = project(b, found, positive=project(a, found)[0], negative=project(a, found)[1])
    return {
        "plain": (flux(), plain),
        "A": (patched(a), project(a, found)),
        "A off": (patched(a), project(a, found, 0.0)),
        "B": (patched(b), project(b, found)),
        "A and B": (patched(b, patched(a)), both),
        "A without tokens": (patched(a), plain),
    }


def differences(made: dict, eager: dict, *order: str, keys=("diffusion_model",)) -> dict[str, float]:
    torch._dynamo.reset()
    return {
        f"{place} {name}": apart(run(compiled(made[name][0], keys), made[name][1]), eager[name])
        for place, name in enumerate(order)
    }


@check
@using("short")
def compiled_orders():
    """How far compiled models are from eager ones, one after the other in one process."""
    made, out = kinds(), {}
    with fused_attention():
        eager = {name: run(model, conds) for name, (model, conds) in made.items()}
        out["plain first"] = differences(made, eager, "plain", "A", "A without tokens")
        out["off first"] = differences(made, eager, "A off", "B", "A and B", "plain")
        blocks = ("diffusion_model.double_blocks.0", "diffusion_model.single_blocks.0")
        out["block by block"] = differences(made, eager, "plain", "A", keys=blocks)
    eager = {name: run(model, conds) for name, (model, conds) in made.items()}
    out["the CPU's attention"] = differences(made, eager, "A", "plain", keys=blocks[:1])
    torch._dynamo.reset()
    return out | {"A differs from plain by": apart(eager["A"], eager["plain"])}


@check_every_family
def compiled_counts():
    """[what ran, graph breaks, graphs, how far from eager] after each run of a series, without and with DINO."""
    with using("short") if used().family is FLUX1 else contextlib.nullcontext(), fused_attention():
        return {"plain": series(flux(), None), "DINO": series(patched(adapter("cross")), adapter("cross"))}


def series(eager, chosen) -> list[tuple]:
    torch._dynamo.reset()
    counters.clear()
    model, found, mask, out = compiled(eager), features(), torch.ones(1, 5, 7) / 2, []

    def conds(*strength, **more):
        return project(chosen, found, *strength, **more) if chosen else (text(0), text(1))

    def add(kind, given, **more):
        result = run(model, given, **more)
        breaks, graphs = sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]
        out.append((kind, breaks, graphs, apart(result, run(eager, given, **more))))

    add("first", conds())
    add("strength, steps, sigmas, seed", conds(0.3), steps=3, denoise=0.9, seed=7)
    if used().family is not FLUX1:  # the same hooks: the rest is seen there
        add("a mask", conds(1.0, mask))
        return out
    add("off", conds(0.0))
    add("a part of the schedule", conds(1.0, start=0.3, end=0.9), steps=4, denoise=1.0)
    add("a mask", conds(1.0, mask))
    add("three pictures of a taller tile", conds(), rows=12, batch=3, cfg=2.0)
    return out


@check
def compiled_redux():
    """(graph breaks, graphs, how far from eager) with Redux, a tile in each call: first, another picture, another strength."""
    out = []
    with fused_attention():
        counters.clear()
        model = compiled(flux(), ("diffusion_model.double_blocks.0",))
        for seed, strength in ((0, 1.0), (1, 1.0), (2, 0.5)):
            tokens = torch.randn(1, 4, 4, CONTEXT, generator=torch.Generator().manual_seed(seed))
            positive = show(text(0), ReduxTokens(tokens, 3, Strength(strength)))
            tiles = (tiled(each, plan(height=128, width=64)) for each in (model, flux()))
            result, wanted = (run(one_by_one(each), (positive,), rows=16) for each in tiles)
            breaks, graphs = sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]
            out.append((breaks, graphs, apart(result, wanted)))
    return out


@check
def counted_cost():
    return cost.figures()


if __name__ == "__main__":
    main()
