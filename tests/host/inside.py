"""Runs inside the host's Python: the pack on tiny models through ComfyUI's real samplers, measured.

python inside.py HOST PACK BASE OUT [CHECK ...] writes OUT/numbers.json, {check: {number: value}}, and the tensors that
test_parity.py compares with diffusers. test_inside.py holds what the numbers must be.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

HOST, PACK, BASE, OUT = (Path(argument).absolute() for argument in sys.argv[1:5])
sys.path.insert(0, str(HOST))

from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.base_directory = str(BASE)

import comfy.clip_vision  # noqa: E402
import comfy.controlnet  # noqa: E402
import comfy.ldm.flux.controlnet  # noqa: E402
import comfy.ldm.modules.diffusionmodules.openaimodel as openai_model  # noqa: E402
import comfy.model_management as management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import node_helpers  # noqa: E402
import torch  # noqa: E402
from comfy.patcher_extension import WrappersMP  # noqa: E402
from comfy_api.torch_helpers import set_torch_compile_wrapper  # noqa: E402
from comfy_extras.nodes_rope import ScaleROPE  # noqa: E402
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402


def load_pack():
    spec = importlib.util.spec_from_file_location(
        "dinotile", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["dinotile"] = module
    spec.loader.exec_module(module)


torch.set_num_threads(1)  # the tests share their machine; waiting threads are slower than one
load_pack()
from dinotile import nodes  # noqa: E402
from dinotile.dino.feature_map import FeatureMap  # noqa: E402
from dinotile.flux_patch.geometry import rotary  # noqa: E402
from dinotile.flux_patch.inject import OPTIONS, cond_key  # noqa: E402
from dinotile.flux_patch.schedule import Strength  # noqa: E402
from dinotile.nodes import host  # noqa: E402

HEIGHT, WIDTH, TILE, OVERLAP = 160, 224, 64, 16  # px: 3 x 4 tiles and more where the plan is to be symmetric
ROWS, COLUMNS = HEIGHT // 8, WIDTH // 8
CONTEXT, VECTOR = 64, 48


# Tools


def node(cls, *inputs, **named):
    """Outputs of one of the pack's nodes."""
    out = cls.execute(*inputs, **named).args
    return out[0] if len(out) == 1 else out


_loaded: dict[str, object] = {}


def flux(name: str = "flux"):
    if name not in _loaded:
        path = BASE / "models" / "diffusion_models" / f"{name}.safetensors"
        _loaded[name] = comfy.sd.load_diffusion_model(str(path))
    return _loaded[name]


def adapter(name: str = "trained"):
    return _once(f"adapter {name}", lambda: node(nodes.LoadAdapter, f"{name}.safetensors"))


def dino():
    return _once("dino", lambda: node(nodes.LoadDino, "dino.safetensors"))


def _once(key: str, make):
    if key not in _loaded:
        _loaded[key] = make()
    return _loaded[key]


def picture(seed: int = 0, batch: int = 1, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A soft random picture [B, H, W, 3]."""
    small = torch.rand(batch, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


def features(seed: int = 0, batch: int = 1) -> FeatureMap:
    return node(nodes.ExtractPatches, dino(), picture(seed, batch), "2/3", 224, 1)


def text(seed: int = 0, tokens: int = 6, pooled: Tensor | None = None, **more) -> list:
    generator = torch.Generator().manual_seed(1000 + seed)
    context = torch.randn(1, tokens, CONTEXT, generator=generator)
    made = torch.randn(1, VECTOR, generator=generator)
    return [[context, {"pooled_output": made if pooled is None else pooled, "guidance": 3.5, **more}]]


def project(
    chosen,
    found: FeatureMap,
    strength: float = 1.0,
    mask: Tensor | None = None,
    positive=None,
    negative=None,
    start: float = 0.0,
    end: float = 1.0,
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
        "flat",
        negative=negative,
        mask=mask,
    )


def plan(tile: int = TILE, overlap: int = OVERLAP, height: int = HEIGHT, width: int = WIDTH):
    return node(nodes.PlanTiles, width, height, tile, overlap)[0]


def patched(chosen, model=None):
    return node(nodes.PatchFlux, model or flux(), chosen)


def tiled(model, of=None):
    return node(nodes.TileModel, model, of or plan())


def random_latent(seed: int = 0, batch: int = 1, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    return torch.randn(batch, 16, rows, columns, generator=torch.Generator().manual_seed(seed))


def where(batch: int = 1, rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    """A latent whose channels 0, 1, 2 are a cell's row, its column and the number of its picture."""
    latent = torch.zeros(batch, 16, rows, columns)
    latent[:, 0] = torch.arange(rows)[:, None]
    latent[:, 1] = torch.arange(columns)[None, :]
    latent[:, 2] = torch.arange(batch)[:, None, None]
    return latent


def sample(
    model, positive, negative=None, *, cfg=1.0, steps=3, denoise=0.6, sampler="euler", latent=None, noise=None, seed=5,
    sigmas=None,
) -> Tensor:  # fmt: skip
    """A latent through the host's CFGGuider and sampler; ``sigmas`` instead of steps and denoise."""
    latent = random_latent(1) if latent is None else latent
    noise = random_latent(2, *latent.shape[:1], *latent.shape[2:]) if noise is None else noise
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive if negative is None else negative)
    guider.set_cfg(cfg)
    if sigmas is None:
        sigmas = host.denoise_sigmas(model, "simple", steps=steps, denoise=denoise)
    chosen = comfy.samplers.sampler_object(sampler)
    return guider.sample(noise, latent, chosen, sigmas, disable_pbar=True, seed=seed)


def watch(model, see):
    """The model with ``see(call)`` at every model call, inside all of the pack's wrappers."""
    model = model.clone()

    def look(executor, x, t, c_concat, c_crossattn, control, options, **kwargs):
        see(SimpleNamespace(x=x, t=t, context=c_crossattn, control=control, options=options, kwargs=kwargs))
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test_watch", look)
    return model


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
    x = call.x / (1 - call.t.view(-1, 1, 1, 1))  # noise is zero
    x = model.model.process_latent_out(x)
    return [tuple(int(torch.round(row[channel, 0, 0])) for channel in (0, 1, 2)) for row in x]


def apart(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


def same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.equal(a, b))


def refusal(action) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


# What DINO changes and what it does not


@check
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


@check
def each_mechanism_acts():
    out = {}
    found = features()
    plain = sample(tiled(flux()), text(0))
    for mechanism in ("cross_attention", "context", "vector"):
        chosen = adapter("trained")
        alone = host.HostAdapter(type(chosen.adapter)(chosen.adapter.config), chosen.patcher)
        alone.adapter.load_state_dict(chosen.adapter.state_dict())
        alone.adapter.eval().requires_grad_(False)
        others = {"cross_attention", "context", "vector"} - {mechanism}
        alone.adapter.idle = frozenset(others)
        alone.adapter.fingerprint = mechanism
        positive, _ = project(alone, found)
        out[mechanism] = apart(sample(tiled(patched(alone)), positive), plain)
    return out


@check
def other_picture():
    model = tiled(patched(adapter()))
    one = sample(model, project(adapter(), features(0))[0])
    other = sample(model, project(adapter(), features(1))[0])
    again = sample(model, project(adapter(), features(0))[0])
    return {"differs by": apart(other, one), "second run is equal": same(again, one)}


@check
def computed_once():
    fresh = node(nodes.LoadDino, "dino.safetensors")
    for seed in (1, 2, 3):
        found = node(nodes.ExtractPatches, fresh, picture(batch=2), "2/3", 224, 1)
        positive, negative = project(adapter(), found)
        sample(tiled(patched(adapter())), positive, negative, latent=random_latent(1, 2), seed=seed, steps=1)
    counts = {"two pictures, three seeds": fresh.encoder.computed}
    fresh = node(nodes.LoadDino, "dino.safetensors")
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    for seed in (1, 2, 3):
        upscale(vae=vae, seed=seed, dino=fresh)
    return counts | {"one node, three seeds": fresh.encoder.computed}


def upscale(*, vae, image=None, dino=None, chosen=None, model=None, scale=1.0, seed=0):
    image = picture(height=64, width=80) if image is None else image
    return node(
        nodes.Upscale, image, model or flux(), vae, text(0), text(1), scale, 0.5, 1, "euler", "simple", 1.0, 64, 16,
        1.0, seed, dino=dino, adapter=chosen or (adapter() if dino else None),
    )  # fmt: skip


# The right tokens at the right place


@check
def tokens_of_the_own_region():
    """Tokens that hold their own coordinates, attached to a latent that holds its own coordinates."""
    chosen, batch = adapter(), 2
    width, grid = chosen.adapter.config.width, chosen.adapter.config.grid
    fine = (4 * ROWS, 4 * COLUMNS)  # four patches per latent cell
    patches = torch.zeros(batch, *fine, width)
    patches[..., 0] = ((torch.arange(fine[0]) + 0.5) / 4)[:, None]  # in latent cells
    patches[..., 1] = ((torch.arange(fine[1]) + 0.5) / 4)[None, :]
    patches[..., 2] = torch.arange(batch)[:, None, None]
    tokens = FeatureMap(patches, patches.mean((1, 2)), "dinov2-demo", "3", (HEIGHT, WIDTH))
    positive = host.attach(text(0), chosen.adapter, tokens, Strength(1.0))
    negative = host.attach(text(1), chosen.adapter, None, Strength(1.0))
    null = torch.cat([chosen.adapter.null_cls[None], chosen.adapter.null_patch.expand(grid * grid, -1)])
    orders = {
        "patch then tile": tiled(patched(chosen)),
        "tile then patch": patched(chosen, tiled(flux())),
        "one by one": tiled(patched(chosen)),
    }
    out = {}
    for name, model in orders.items():
        worst, seen, calls = 0.0, set(), []

        def see(call, model=model, seen=seen, calls=calls):
            nonlocal worst
            made, _ = call.options[OPTIONS][cond_key(chosen.adapter)]
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
                worst = max(worst, float((made.tokens[row] - expected).abs().max()))
            calls.append(len(call.x))

        watched = watch(model, see)
        if name == "one by one":
            watched = one_by_one(watched)
        latent = where(batch)
        nothing = torch.zeros_like(latent)
        sample(watched, positive, negative, cfg=2.0, steps=1, denoise=0.5, latent=latent, noise=nothing)
        out[name] = {"worst, latent cells": worst, "rows seen": len(seen), "rows per call": calls}
    return out | {"rows expected": plan().count * batch * 2}


@check
def dino_mask():
    """A mask over the left part; without overlap the tiles right of it must not notice DINO."""
    of = plan(tile=64, overlap=0, width=256)
    latent = random_latent(1, columns=32)
    mask = torch.zeros(1, 40, 64)
    mask[..., :16] = 1.0  # the first column of tiles
    found = features()
    out = {}
    for name in ("trained", "cross"):
        chosen = adapter(name)
        model = tiled(patched(chosen), of)
        off = sample(model, project(chosen, found, 0.0)[0], latent=latent)
        part = sample(model, project(chosen, found, 1.0, mask)[0], latent=latent)
        full = sample(model, project(chosen, found, 1.0)[0], latent=latent)
        ones = sample(model, project(chosen, found, 1.0, torch.ones(1, 8, 8))[0], latent=latent)
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
        made, _ = call.options[OPTIONS][cond_key(chosen.adapter)]
        weights.append((made.query_weights.clone(), call.x.shape))

    small = random_latent(1, rows=16, columns=16)
    sample(watch(patched(chosen), see), project(chosen, found, 1.0, one)[0], latent=small, steps=1)
    out["token weights"] = {"are the mask": bool((weights[0][0].view(8, 8) == one[0]).all())}
    return out


@check
def sigma_window():
    """start_percent and end_percent by the model's own schedule."""
    chosen, found, used = adapter(), features(), []
    conds = project(chosen, found, start=0.5, end=0.8)
    model = watch(patched(chosen), lambda call: used.append((float(call.t[0]), bool(call.options.get(OPTIONS)))))
    sample(model, conds[0], steps=10, denoise=1.0)
    return {"sigmas with": [s for s, on in used if on], "sigmas without": [s for s, on in used if not on]}


@check
def sigma_above_one():
    """A first sigma that rounding has lifted above 1, the sigma of percent 0."""
    out = {}
    for name, start in (("from the start", 0.0), ("later", 0.5)):
        used = []
        model = watch(
            patched(adapter()), lambda call, used=used: used.append((float(call.t[0]), OPTIONS in call.options))
        )
        positive, _ = project(adapter(), features(), start=start)
        sample(model, positive, sigmas=torch.tensor([1.0000001, 0.6, 0.3, 0.0]))
        out[name] = used
    return out


@check
def scaled_rope():
    """ComfyUI's ScaleROPE on the patched model; the cross-attention's positions are FLUX's own."""
    chosen, out = adapter(), {}
    positive, negative = project(chosen, features())
    for shape, wrap in (("whole", lambda model: model), ("tiled", tiled)):
        model = wrap(patched(chosen))
        reference = sample(model, positive, negative, cfg=2.0)
        out[shape] = {}
        for name, options in ROPES.items():
            worst = [0.0]

            def see(call, worst=worst, model=model):
                made, _ = call.options[OPTIONS][cond_key(chosen.adapter)]
                _, ids = model.model.diffusion_model.process_img(call.x, transformer_options=call.options)
                worst[0] = max(worst[0], apart(made.q_rotation, rotary(ids[0])))

            scaled = node(ScaleROPE, model, *options)
            result = sample(watch(scaled, see), positive, negative, cfg=2.0)
            out[shape][name] = {
                "equal": same(result, reference),
                "differs by": apart(result, reference),
                "finite": bool(result.isfinite().all()),
                "positions differ from FLUX's by": worst[0],
            }
        out[shape]["without it again is equal"] = same(sample(model, positive, negative, cfg=2.0), reference)
    return out


ROPES = {  # scale and shift of x, y, t
    "neutral": (1.0, 0.0, 1.0, 0.0, 1.0, 0.0),
    "scale": (0.5, 0.0, 2.0, 0.0, 1.0, 0.0),
    "shift": (1.0, 3.0, 1.0, -2.5, 1.0, 1.0),
}


# The same result whatever the batch, the order, the run


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
        "after unload is equal": same(third, first),
        "after free_memory is equal": same(fourth, first),
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


@check
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


@check
def compiled():
    found = features()

    def runs(model):
        for tile, strength in ((64, 1.0), (64, 0.0), (64, 0.3), (96, 1.0), (64, 1.0)):
            positive, negative = project(adapter(), found, strength)
            yield sample(tiled(model, plan(tile=tile)), positive, negative, cfg=2.0, steps=1)

    model = patched(adapter()).clone(disable_dynamic=True)
    options = {"guard_filter_fn": skip_torch_compile_dict}  # as ComfyUI's TorchCompileModel node sets it
    set_torch_compile_wrapper(model=model, backend="eager", options=options)
    torch._dynamo.utils.counters.clear()
    pairs = list(zip(runs(model), runs(patched(adapter())), strict=True))
    frames = torch._dynamo.utils.counters["frames"]["ok"]
    torch._dynamo.reset()
    return {"runs": len(pairs), "worst": max(apart(a, b) for a, b in pairs), "frames compiled": frames}


@check
def low_precision():
    fp8 = torch.float8_e4m3fn
    path = str(BASE / "models" / "diffusion_models" / "flux.safetensors")
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
        "adapter after": sorted({str(p.dtype) for p in adapter().adapter.parameters()}),
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


# What else a conditioning may carry


@check
def regions():
    """Areas, masks, strengths and time ranges of combined prompts, against ComfyUI without tiles.

    The model's velocity is a constant of the prompt, so that tiling can change nothing but the weights.
    """
    model = flux("flux-pooled")
    left = torch.zeros(1, HEIGHT // 2, WIDTH // 2)
    left[..., : WIDTH // 4] = 1.0
    soft = torch.linspace(0, 1, WIDTH)[None, None].expand(1, HEIGHT, WIDTH)
    a, b, c = text(10), text(11), text(12)

    def put(conditioning, **values):
        return node_helpers.conditioning_set_values(conditioning, values)

    area = (ROWS, COLUMNS // 2, 0, 0)
    cases = {
        "one prompt": a,
        "area beside area": put(a, area=area, strength=1.0)
        + put(b, area=(ROWS, COLUMNS // 2, 0, COLUMNS // 2), strength=1.0),
        "area over a prompt": a + put(b, area=(8, 9, 5, 7), strength=0.7),
        "area in percent": a + put(b, area=("percentage", 0.5, 0.4, 0.2, 0.3), strength=1.0),
        "mask over a prompt": a + put(b, mask=left, set_area_to_bounds=False, mask_strength=0.8),
        "soft masks": put(a, mask=soft, set_area_to_bounds=False, mask_strength=1.0)
        + put(b, mask=1 - soft, set_area_to_bounds=False, mask_strength=1.0),
        "mask to its bounds": a + put(b, mask=left, set_area_to_bounds=True, mask_strength=1.0),
        "three, one for a while": a + put(b, mask=left, mask_strength=1.0) + put(c, start_percent=0.5, end_percent=0.8),
    }
    out = {}
    for name, conditioning in cases.items():
        plain = sample(model, conditioning, text(1), cfg=2.0)
        of_tiles = sample(tiled(model), conditioning, text(1), cfg=2.0)
        out[name] = apart(of_tiles, plain)
    only_a, only_b = sample(tiled(model), a), sample(tiled(model), b)
    beside = sample(tiled(model), cases["mask over a prompt"] + put(a, mask=1 - left, mask_strength=1e6))
    out["prompts differ by"] = apart(only_a, only_b)
    out["outside its mask a prompt has no say"] = apart(
        beside[..., COLUMNS // 2 + 2 :], only_a[..., COLUMNS // 2 + 2 :]
    )
    return out


@check
def regions_skip_tiles():
    """A prompt with an area runs only in the tiles that it touches."""
    rows = []
    conditioning = text(10) + node_helpers.conditioning_set_values(text(11), {"area": (4, 4, 0, 0), "strength": 1.0})
    model, rows = counted(tiled(flux("flux-pooled")))
    sample(model, conditioning, steps=1)
    return {"rows": sum(rows), "tiles": plan().count}


def control_model(*, latent_input: bool):
    """A one-block FLUX ControlNet, fresh weights."""
    torch.manual_seed(3)
    with torch.inference_mode(False):
        model = comfy.ldm.flux.controlnet.ControlNetFlux(
            latent_input=latent_input, image_model="flux", in_channels=16, out_channels=16, vec_in_dim=VECTOR,
            context_in_dim=CONTEXT, hidden_size=256, mlp_ratio=4.0, num_heads=2, depth=1, depth_single_blocks=1,
            axes_dim=[16, 56, 56], txt_ids_dims=[], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=False,
            operations=comfy.ops.manual_cast, dtype=torch.float32, device="cpu",
        )  # fmt: skip
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval().requires_grad_(False)


@check
def controlnet_hints():
    """A hint that holds its own coordinates; what arrives at the ControlNet belongs to the tile that it gets."""
    out = {}
    for name, scale, cfg in (("canvas size", 1, 1.0), ("half size", 2, 1.0), ("cfg 2", 1, 2.0)):
        hint = torch.zeros(1, 3, HEIGHT // scale, WIDTH // scale)
        hint[:, 0] = torch.arange(HEIGHT // scale)[:, None] / HEIGHT * scale
        hint[:, 1] = torch.arange(WIDTH // scale)[None, :] / WIDTH * scale
        full = comfy.utils.common_upscale(hint, WIDTH, HEIGHT, "nearest-exact", "center")
        net = control_model(latent_input=False)
        control = comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"), extra_conds=["y", "guidance"])
        control.set_cond_hint(hint, 1.0)
        prepared, used, worst, seen = [], [], [0.0], set()
        control.preprocess_image = lambda a, prepared=prepared: prepared.append(tuple(a.shape)) or a
        model = tiled(patched(adapter()))

        def see(module, args, kwargs, model=model, used=used, worst=worst, full=full, seen=seen):
            x = model.model.process_latent_out(kwargs["x"] / (1 - kwargs["timesteps"].view(-1, 1, 1, 1)))
            for row, given in zip(x, kwargs["hint"].expand(len(x), -1, -1, -1), strict=True):
                top, left = (int(torch.round(row[channel, 0, 0])) * 8 for channel in (0, 1))
                tile = full[0, :, top : top + given.shape[-2], left : left + given.shape[-1]]
                worst[0] = max(worst[0], float((given - tile).abs().max()))
                seen.add((top, left))
            used.append(len(x))

        handle = net.register_forward_pre_hook(see, with_kwargs=True)
        positive, negative = project(adapter(), features())
        positive = node_helpers.conditioning_set_values(positive, {"control": control, "control_apply_to_uncond": True})
        latent = where()
        sample(model, positive, negative, cfg=cfg, steps=1, denoise=0.5, latent=latent, noise=torch.zeros_like(latent))
        handle.remove()
        prepared_once = len(prepared)
        prepared.clear()
        result = sample(model, positive, negative, cfg=cfg, steps=4)
        without = sample(model, *project(adapter(), features()), cfg=cfg, steps=4)
        out[name] = {
            "worst": worst[0],
            "tiles seen": len(seen),
            "rows per call": sorted(set(used)),
            "prepared, 1 step": prepared_once,
            "prepared, 4 steps": len(prepared),
            "effect": apart(result, without),
            "hint of the canvas is kept": control.cond_hint_original is hint,
        }
    return out | {"tiles": plan().count}


@check
def controlnet_latents():
    """A ControlNet on VAE latents: each tile's crop is encoded once."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    net = control_model(latent_input=True)
    control = comfy.controlnet.ControlNet(
        net, compression_ratio=1, latent_format=comfy.latent_formats.Flux(), load_device=torch.device("cpu"),
        extra_conds=["y", "guidance"],
    )  # fmt: skip
    image = picture(4)
    hint = image.movedim(-1, 1)
    encoded = []
    encode = vae.encode
    vae.encode = lambda pixels: encoded.append(tuple(pixels.shape)) or encode(pixels)
    control.set_cond_hint(hint, 1.0, vae=vae)
    model, worst = tiled(flux()), [0.0]

    def see(module, args, kwargs):
        x = model.model.process_latent_out(kwargs["x"] / (1 - kwargs["timesteps"].view(-1, 1, 1, 1)))
        top, left = (int(torch.round(x[0, channel, 0, 0])) * 8 for channel in (0, 1))
        height, width = (side * 8 for side in x.shape[-2:])
        expected = control.latent_format.process_in(encode(image[:, top : top + height, left : left + width]))
        worst[0] = max(worst[0], apart(kwargs["hint"][:1], expected))

    handle = net.register_forward_pre_hook(see, with_kwargs=True)
    positive = node_helpers.conditioning_set_values(text(0), {"control": control})
    latent = where()
    sample(model, positive, steps=1, denoise=0.5, latent=latent, noise=torch.zeros_like(latent))
    handle.remove()
    return {"worst": worst[0], "encoded": len(encoded), "tiles": plan().count}


@check
def chained_controls():
    """Two ControlNets in a row, with strength and a part of the schedule, equal ComfyUI's own where one tile is the canvas."""
    image = picture(4).movedim(-1, 1)

    def control(strength, percents):
        net = comfy.controlnet.ControlNet(
            control_model(latent_input=False), load_device=torch.device("cpu"), extra_conds=["y", "guidance"]
        )
        return net.set_cond_hint(image, strength, percents)

    first, second = control(0.7, (0.0, 1.0)), control(0.4, (0.3, 0.6))
    second.set_previous_controlnet(first)
    positive = node_helpers.conditioning_set_values(text(0), {"control": second})
    whole = sample(flux(), positive)
    one = sample(tiled(flux(), plan(tile=256)), positive)
    only = sample(flux(), node_helpers.conditioning_set_values(text(0), {"control": first}))
    return {"one tile differs by": apart(one, whole), "second net's effect": apart(whole, only)}


@check
def reference_latents():
    out = {}
    shapes = {"canvas size": (ROWS, COLUMNS), "double size": (2 * ROWS, 2 * COLUMNS), "other picture": (12, 30)}
    for name, (rows, columns) in shapes.items():
        reference = where(rows=rows, columns=columns)
        worst, sizes = [0.0], set()
        model = tiled(patched(adapter()))

        def see(call, model=model, worst=worst, sizes=sizes, rows=rows):
            (given,) = call.kwargs["ref_latents"]
            given = model.model.process_latent_out(given)
            sizes.add(tuple(given.shape[-2:]))
            for (top, left, _), row in zip(places(call, model), given, strict=True):
                factor = rows / ROWS
                worst[0] = max(
                    worst[0], abs(float(row[0, 0, 0]) - top * factor), abs(float(row[1, 0, 0]) - left * factor)
                )

        positive, _ = project(adapter(), features(), positive=text(0, reference_latents=[reference]))
        latent = where()
        sample(watch(model, see), positive, steps=1, denoise=0.5, latent=latent, noise=torch.zeros_like(latent))
        out[name] = {"worst, cells": worst[0], "sizes": sorted(sizes)}
    return out


@check
def attention_masks():
    """A mask over [text | canvas tokens]: all open changes nothing, closed text changes much, with DINO's own tokens beside."""
    found, of = features(), plan()
    count = (ROWS // 2) * (COLUMNS // 2)
    out = {}
    for name, model in (("tiled", tiled(patched(adapter()), of)), ("whole", patched(adapter()))):
        plain = sample(model, project(adapter(), found, 0.6)[0])
        results = []
        for closed in (False, True):
            mask = torch.ones(1, 6 + count, 6 + count, dtype=torch.bool)
            mask[:, 6:, :6] = not closed
            put = {"attention_mask": mask, "attention_mask_img_shape": (ROWS // 2, COLUMNS // 2)}
            conds = project(adapter(), found, 0.6, positive=text(0, **put))
            results.append(apart(sample(model, conds[0]), plain))
        out[name] = {"open differs by": results[0], "closed differs by": results[1]}
    return out


# DINO through CLIP_VISION


@check
def clip_vision():
    config = {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "layer_norm_eps": 1e-6, "patch_size": 14,
        "image_size": 168, "use_swiglu_ffn": False, "model_type": "dinov2", "use_mask_token": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    state = load_file(BASE / "models" / "dino" / "dino.safetensors")
    args.fp32_text_enc = True  # or it would keep its weights in half precision
    clip = comfy.clip_vision.ClipVisionModel(config)
    args.fp32_text_enc = False
    missing, unexpected = clip.load_sd(state)
    own = node(nodes.DinoFromClipVision, clip)
    image = picture(7, height=168, width=168)
    out = {"missing": len(missing), "unexpected": len(unexpected)}
    for layers in ("2/3", "last", "1,2,4"):
        ours = node(nodes.ExtractPatches, dino(), image, layers, 168, 1)
        theirs = node(nodes.ExtractPatches, own, image, layers, 168, 1)
        out[f"layers {layers}"] = max(apart(theirs.patches, ours.patches), apart(theirs.cls, ours.cls))
    wide = picture(7, height=168, width=336)
    ours, theirs = (node(nodes.ExtractPatches, d, wide, "2/3", 336, 1) for d in (dino(), own))
    out["another size"] = apart(theirs.patches, ours.patches)
    not_dino = SimpleNamespace(config={"model_type": "siglip_vision_model", "hidden_size": 1152}, model=None)
    return out | {"refused": refusal(lambda: node(nodes.DinoFromClipVision, not_dino))}


# Refusals


@check
def refusals():
    found = features()
    unet = openai_model.UNetModel(
        image_size=8, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=[1], channel_mult=(1,), num_heads=4,
        use_spatial_transformer=True, context_dim=16, transformer_depth=[1], transformer_depth_output=[1, 1],
        transformer_depth_middle=1,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    holder = torch.nn.Module()
    holder.diffusion_model = unet
    cpu = torch.device("cpu")
    other = comfy.model_patcher.ModelPatcher(holder, load_device=cpu, offload_device=cpu)
    nan, vae = picture(height=32, width=32), None
    nan[0, 3, 3] = float("nan")
    sizes = {name: torch.rand(*shape) for name, shape in {
        "grey": (1, 40, 48, 1), "alpha": (1, 40, 48, 4), "grey and alpha": (1, 40, 48, 2), "one px": (1, 1, 1, 3),
        "ten to one": (1, 16, 160, 3), "smaller than a tile": (1, 30, 50, 3),
    }.items()}  # fmt: skip
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    made = {}
    for name, image in sizes.items():
        result = upscale(vae=vae, image=image, dino=dino(), scale=1.5)
        made[name] = [list(result.shape), bool(result.isfinite().all())]
    tokens = project(adapter(), found)
    said = {
        "UNet patched": lambda: patched(adapter(), other),
        "UNet tiled": lambda: tiled(other),
        "UNet, new adapter": lambda: node(nodes.NewAdapter, other, dino(), "2/3", "all", 32, 8, 1, 2, 0),
        "FLUX.2": lambda: patched(adapter(), flux("flux2")),
        "FLUX of another width": lambda: patched(adapter(), flux("flux-wide")),
        "adapter of another DINO": lambda: project(adapter("for-other-dino"), found),
        "adapter of other layers": lambda: project(adapter("for-other-layers"), found),
        "unpatched model": lambda: sample(flux(), *tokens),
        "model patched with another": lambda: sample(patched(adapter("second")), *tokens),
        "NaN": lambda: upscale(vae=vae, image=nan),
        "infinite": lambda: node(nodes.ExtractPatches, dino(), nan.nan_to_num(float("inf")), "2/3", 0, 1),
        "no picture": lambda: node(nodes.ExtractPatches, dino(), nan[:0], "2/3", 0, 1),
        "five channels": lambda: upscale(vae=vae, image=torch.rand(1, 16, 16, 5)),
        "overlap not below tile": lambda: plan(tile=64, overlap=64),
        "tile off the grid": lambda: plan(tile=72),
        "latent of another size": lambda: sample(tiled(flux()), text(0), latent=random_latent(rows=10)),
        "three pictures, two latents": lambda: sample(
            patched(adapter()), *project(adapter(), features(batch=3)), latent=random_latent(1, 2)
        ),
        "three pictures, two latents, tiled": lambda: sample(
            tiled(patched(adapter())), *project(adapter(), features(batch=3)), latent=random_latent(1, 2)
        ),
        "tiled twice": lambda: tiled(tiled(flux())),
        "dino without adapter": lambda: node(
            nodes.Upscale, nan, flux(), vae, text(0), text(0), 2.0, 0.3, 1, "euler", "simple", 1.0, 64, 16, 1.0, 0, dino=dino()
        ),
        "scale": lambda: upscale(vae=vae, scale=99.0),
        "layers": lambda: node(nodes.ExtractPatches, dino(), picture(), "9", 0, 1),
        "several masks": lambda: project(adapter(), found, mask=torch.ones(2, 8, 8)),
        "start after end": lambda: project(adapter(), found, start=0.8, end=0.2),
        "missing DINO file": lambda: node(nodes.LoadDino, "nothing.safetensors"),
        "missing adapter file": lambda: node(nodes.LoadAdapter, "nothing.safetensors"),
    }  # fmt: skip
    for kind, loader in (("DINO", nodes.LoadDino), ("adapter", nodes.LoadAdapter)):
        for name in ("pickle", "truncated", "foreign"):
            said[f"{name} as {kind}"] = lambda loader=loader, name=name: node(loader, f"{name}.safetensors")
    said["default conditioning"] = lambda: sample(tiled(flux()), text(0) + text(2, default=True))
    return {"pictures": made, "said": {name: refusal(action) for name, action in said.items()}}


# The same as diffusers, and the time it takes


@check
def for_diffusers():
    """A tiled run whose inputs and result test_parity.py hands to diffusers."""
    batch = 2
    images = picture(3, batch)
    found = node(nodes.ExtractPatches, dino(), images, "2/3", 224, 1)
    model = tiled(patched(adapter()))
    latent, noise = random_latent(1, batch), random_latent(2, batch)
    positive, _ = project(adapter(), found, 0.8)
    result = sample(model, positive, latent=latent, noise=noise, steps=4)
    without = sample(tiled(flux()), text(0), latent=latent, noise=noise, steps=4)
    inner = model.model
    tensors = {
        "pixels": images.movedim(-1, 1),
        "latent": inner.process_latent_in(latent),
        "noise": noise,
        "sigmas": host.denoise_sigmas(model, "simple", steps=4, denoise=0.6),
        "context": text(0)[0][0],
        "pooled": text(0)[0][1]["pooled_output"],
        "result": inner.process_latent_in(result),
        "without": inner.process_latent_in(without),
    }
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, OUT / "run.safetensors")
    return {"tile": TILE, "overlap": OVERLAP, "height": HEIGHT, "width": WIDTH, "strength": 0.8}


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
    """2048 x 2048 px in tiles of 256 px on the demo's geometry: wall time of a run, and what is not the FLUX module.

    "fusion" is the tensor work of the host's own function around the model: cropping, batching, weighing and fusing of tiles.
    What then remains is the sampler's step and Python of the host.
    """
    side = 2048
    model, chosen = flux("flux-thin"), adapter("thin-adapter")
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(1, 37, 37, 128, generator=generator)
    found = FeatureMap(patches, patches.mean((1, 2)), "dinov2-demo", "3", (side, side))
    empty = node(nodes.EmptyConditioning, model, 8, 3.5)
    positive, negative = project(chosen, found, 0.5, positive=empty, negative=empty)
    of = plan(tile=256, overlap=32, height=side, width=side)
    latent = random_latent(1, rows=side // 8, columns=side // 8)
    spent = {"model": 0.0, "conds": 0.0, "apply": 0.0}

    def clock(name: str, sign: int):
        """A wrapper that adds its inner time to ``spent``: outside of the pack's with +, inside of them with -."""

        def timed(executor, *args, **kwargs):
            start = time.perf_counter()
            try:
                return executor(*args, **kwargs)
            finally:
                spent[name] += sign * (time.perf_counter() - start)

        return timed

    def mark(name: str):
        def wrapper(executor, *args, **kwargs):
            with torch.profiler.record_function(name):
                return executor(*args, **kwargs)

        return wrapper

    def between(before: dict, after: dict):
        """The tiled and patched model, with wrappers around and inside of the pack's own."""
        outer = model.clone()
        for kind, wrapper in before.items():
            outer.add_wrapper_with_key(kind, "test_outer", wrapper)
        wrapped = tiled(patched(chosen, outer), of)
        for kind, wrapper in after.items():
            wrapped.add_wrapper_with_key(kind, "test_inner", wrapper)
        return wrapped

    kinds = {WrappersMP.CALC_COND_BATCH: "conds", WrappersMP.APPLY_MODEL: "apply"}
    inner, forward = model.model.diffusion_model, model.model.diffusion_model.forward
    wrapped = between(
        {k: clock(name, 1) for k, name in kinds.items()}, {k: clock(name, -1) for k, name in kinds.items()}
    )
    sample(wrapped, positive, negative, steps=1, denoise=0.3, latent=latent)  # warm
    spent.update(model=0.0, conds=0.0, apply=0.0)
    inner.forward = lambda *args, **kwargs: clock("model", 1)(forward, *args, **kwargs)
    start = time.perf_counter()
    sample(wrapped, positive, negative, steps=2, denoise=0.3, latent=latent)
    wall = time.perf_counter() - start
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
        "share of the pack": (spent["conds"] + spent["apply"]) / wall,
        "share outside the model": 1 - spent["model"] / wall,
    }


def main() -> None:
    host.register_folders()
    chosen = sys.argv[5:] or list(CHECKS)
    numbers = {}
    for name in chosen:
        start = time.perf_counter()
        try:
            with torch.inference_mode():  # as the host's executor does
                numbers[name] = CHECKS[name]()
        except Exception:
            numbers[name] = {"error": traceback.format_exc()}
        seconds = time.perf_counter() - start
        print(f"{seconds:6.1f} s {name}", flush=True)  # noqa: T201
        (OUT / "numbers.json").write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
