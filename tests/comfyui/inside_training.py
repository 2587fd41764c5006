"""Runs inside the host's Python like inside.py: training on ComfyUI's own models, measured.

python inside_training.py HOST PACK BASE OUT [CHECK ...] writes OUT/numbers.json and the tensors that test_training.py
compares with diffusers.
"""

from __future__ import annotations

import shutil
from functools import partial

from inside_tools import (
    BASE,
    CONTEXT,
    DEMO,
    OUT,
    PATCHES,
    VECTOR,
    adapter,
    apart,
    check,
    check_every_family,
    check_on,
    dino,
    features,
    fill_model,
    flux,
    folder,
    main,
    node,
    once,
    patched,
    picture,
    plan,
    project,
    random_latent,
    refusal,
    same,
    sample,
    saved,
    text,
    upscale,
    used,
    watch,
)  # makes the host's and the pack's modules importable

# isort: split

import comfy.model_management as management
import comfy.ops
import comfy.sd
import comfy.utils
import torch
import torch.nn.functional as F
from inside_zoo import decoder
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from dinotile import nodes
from dinotile.dino.feature_map import FeatureMap
from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.flux_patch.rows import DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.comfy import training as host_training
from dinotile.hosts.comfy.latents import flat
from dinotile.hosts.host import Text
from dinotile.training.adapter.start import copied
from dinotile.training.core.state import checkpoints

FIXED_ROWS = range(40)


def vae(name: str = "vae"):
    path = BASE / "models" / "vae" / f"{name}.safetensors"
    return once(name, lambda: comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path))))


def photos() -> str:
    return once("photos", lambda: folder("photos", [(64, 64), (64, 80), (72, 64), (64, 64), (80, 64), (64, 64)]))


def train(name: str, *, model=None, **changed):
    """(adapter, curve) of the node, with small settings."""
    settings = {
        "folder": photos(),
        "filename_prefix": f"made/{name}",
        "steps": 2,
        "batch": 2,
        "learning_rate": 3e-3,
        "picture": 64,
        "tile": 32,
        "layers": "2/3",
        "mechanisms": "all",
        "width": 16,
        "grid": 4,
        "highest_sigma": 1.0,
        "guidance": 1.0,
        "gradient_checkpointing": False,
        "remember": 6,
        "seed": 1,
    }
    return node(nodes.TrainAdapter, model or flux(), changed.pop("vae", None) or vae(), dino(), **settings | changed)


def host_with(chosen, *, model=None, **settings):
    """A TrainingHost whose adapter is a copy of ``chosen``."""
    return host_training.TrainingHost(model or flux(), vae(), copied(chosen.adapter), **settings)


def fixed_loss(chosen) -> float:
    """Mean velocity loss of an adapter over the same rows."""
    from dinotile.training.adapter.config import TrainConfig
    from dinotile.training.adapter.encode import PictureEncoder
    from dinotile.training.adapter.step import draw_rows, velocity_losses
    from dinotile.training.data.pictures import open_data
    from dinotile.training.data.settings import DataSettings

    config = TrainConfig(data=DataSettings(path=photos(), picture=64, tile=32, cache=6))
    with host_training.gradients(), torch.no_grad():
        frozen = host_with(chosen)
        pictures = PictureEncoder(frozen, dino(), open_data(config.data, needs_features=None), config=config)
        rows = draw_rows(pictures, list(FIXED_ROWS), step=10_000, first=0, count=6)
        return float(velocity_losses(frozen, list(rows.values()))[0].mean())


def weights(chosen) -> dict[str, Tensor]:
    return {name: tensor.cpu().float() for name, tensor in chosen.adapter.module.state_dict().items()}


# The same as diffusers


def rows_of_a_call(frozen, found: FeatureMap) -> dict:
    """Arguments of ``Host.velocity``: two windows of a picture, the learned null, and another picture's window."""
    generator = torch.Generator().manual_seed(3)
    on = Strength(1.0)
    tokens = frozen.adapter.module.project(found.to(frozen.device))
    rows = [
        DinoRow(tokens, 0, (0.0, 0.0, 0.5, 0.5), on),
        DinoRow(tokens, 0, (0.5, 0.25, 0.5, 0.75), on),
        DinoRow(None, 0, (0.0, 0.0, 1.0, 1.0), on),
        DinoRow(tokens, 1, (0.1, 0.2, 0.6, 0.6), on),
    ]
    return {
        "latents": torch.randn(4, 16, 8, 12, generator=generator),
        "sigmas": torch.tensor([0.003, 0.2, 0.6, 0.99]),
        "context": torch.randn(4, 5, CONTEXT, generator=generator),
        "pooled": torch.randn(4, VECTOR, generator=generator),
        "mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4, [True] * 4 + [False]]),
        "rows": rows,
    }


def velocity_and_gradients(chosen, found: FeatureMap, *, model, **settings) -> dict[str, Tensor]:
    with host_training.gradients():
        frozen = host_with(chosen, model=model, **settings)
        module = frozen.adapter.module.requires_grad_(True).train()
        call = rows_of_a_call(frozen, found)
        told = Text(call["context"], call["pooled"], 3.0, call["mask"])
        with frozen.running():
            velocity = frozen.velocity(call["latents"], call["sigmas"], text=told, rows=call["rows"])
            velocity.square().mean().backward()
        out = {f"gradient {name}": p.grad for name, p in module.named_parameters()}
        return {"velocity": velocity.detach(), **out}


@check
def for_diffusers():
    """Velocity and adapter gradients, with blocks kept and computed again, and a picture through the VAE."""
    generator = torch.Generator().manual_seed(4)
    flux(), flux("flux-dev"), vae(), dino(), adapter()  # loaded in the inference mode of a node
    with host_training.gradients():
        patches, cls = torch.randn(2, 6, 7, 128, generator=generator), torch.randn(2, 128, generator=generator)
        found = FeatureMap(patches, cls, "dinov2-demo", "3", (84, 98))
        call = rows_of_a_call(host_with(adapter()), found)
        frozen = host_with(adapter())
        pixels = picture(5, 2, 48, 64).movedim(-1, 1)
        latents = frozen.encode(pixels)
        tensors = {"pixels": pixels, "encoded": latents, "decoded": frozen.decode(latents)}
    tensors |= {"patches": patches, "cls": cls}
    tensors |= {name: call[name] for name in ("latents", "sigmas", "context", "pooled", "mask")}
    out = {}
    for name in ("flux", "flux-dev"):
        kept, again = (
            velocity_and_gradients(adapter(), found, model=flux(name), gradient_checkpointing=on)
            for on in (False, True)
        )
        out[f"{name}: computed again differs by"] = max(apart(again[part], kept[part]) for part in kept)
        tensors |= {f"{name} {part}": tensor for part, tensor in kept.items()}
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, OUT / "call.safetensors")
    return out


class Watch(TorchFunctionMode):
    """Whether cuDNN's kernels may be taken, at every attention that has a backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention and any(each.requires_grad for each in args[:3]):
            self.seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return func(*args, **(kwargs or {}))


def kernels():
    """Of the model's and the adapter's attention, where the host allows every kernel just around it, as it does on CUDA."""
    every = [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]

    def as_on_cuda(*args, **kwargs):
        with sdpa_kernel(every):
            return F.scaled_dot_product_attention(*args, **kwargs)

    model, small, chosen = flux(), decoder(flux()), adapter().adapter  # loaded in the inference mode of a node
    ((context, more),), seen = text(0), flat(random_latent(3, rows=8, columns=12))
    before, comfy.ops.scaled_dot_product_attention = comfy.ops.scaled_dot_product_attention, as_on_cuda
    try:
        with Watch() as watch, host_training.gradients():
            host = host_training.TrainingHost(model, small, copied(chosen))
            module, patches = host.adapter.module.requires_grad_(True).train(), torch.randn(1, 6, 7, 128)
            tokens = module.project(FeatureMap(patches, patches[:, 0, 0], "dinov2-demo", "3", (84, 98)))
            heard = Text(context.clone(), more.get("pooled_output", torch.zeros(1, 0)).clone())
            row, sigmas = DinoRow(tokens, settings=Strength(1.0)), torch.tensor([0.6])
            with host.running():
                host.velocity(seen.clone(), sigmas, text=heard, rows=[row]).square().mean().backward()
    finally:
        comfy.ops.scaled_dot_product_attention = before
    return {"attentions": len(watch.seen), "in cuDNN": sum(watch.seen)}


check_on(kernels, "krea2")  # whose blocks no patch replaces


# Training


@check
def trained():
    """A run of the node, and what it leaves behind."""
    model = comfy.sd.load_diffusion_model(str(BASE / "models" / "diffusion_models" / "flux.safetensors"))
    before = sample(model, text(0))
    flags = [p.is_inference() for p in model.model.diffusion_model.parameters()]
    state = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    untrained = node(nodes.NewAdapter, model, dino(), "2/3", "all", 16, 4, 2, 4, 1)
    shown = []
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, preview, node_id=None: shown.append((value, total, preview))
    )
    made, curve = train("trained", model=model, steps=120)
    comfy.utils.set_progress_bar_global_hook(None)
    file = load_adapter(saved("trained")[0])
    loaded = node(nodes.LoadAdapter, f"made/{saved('trained')[0].name}")
    found = node(nodes.ExtractPatches, dino(), picture(0), "2/3", 224, 1)
    patched = node(nodes.PatchFlux, model, loaded)
    return {
        "weights were made in inference mode": any(flags),
        "loss untrained": fixed_loss(untrained),
        "loss trained": fixed_loss(made),
        "loss of another start": fixed_loss(adapter()),
        "curve": list(curve.shape),
        "curve is no blank": float(curve.std()),
        "files": len(saved("trained")),
        "trained": file.trained,
        "steps": file.config.provenance["steps"],
        "output is the file": all(same(weights(made)[n], t.float()) for n, t in file.module.state_dict().items()),
        "last progress": list(shown[-1][:2]),
        "previews": len([1 for _, _, preview in shown if preview]),
        "in_training": management.in_training,
        "flux is as before": all(same(t, state[n]) for n, t in model.model.state_dict().items()),
        "sample is as before": same(sample(model, text(0)), before),
        "patches left": sorted(model.model_options["transformer_options"]),
        "sample with it differs by": apart(sample(patched, project(loaded, found)[0]), before),
    }


@check
def continued():
    """From an adapter on: its configuration, its weights."""
    start, _ = train("start", steps=3, width=24, grid=3, mechanisms="vector")
    still, _ = train("still", steps=1, learning_rate=0.0, adapter=start)
    moved, _ = train("moved", steps=1, adapter=start)
    with_all, _ = train("from all", steps=1, adapter=adapter())
    untrained = node(nodes.NewAdapter, flux(), dino(), "2/3", "cross_attention", 16, 4, 0, 1, 0)
    from_new, _ = train("from new", steps=2, adapter=untrained)
    return {
        "configuration": [still.adapter.config.width, still.adapter.config.grid, list(still.adapter.config.mechanisms)],
        "without a rate the weights stay": all(same(weights(still)[n], t) for n, t in weights(start).items()),
        "with one they move": max(
            apart(t, weights(start)[n]) for n, t in weights(moved).items() if weights(start)[n].any()
        ),
        "start stays": same(weights(start)["vector.weight"], weights(still)["vector.weight"]),
        "sites": list(with_all.adapter.config.sites),
        "sites of a new one": list(from_new.adapter.config.sites),
        "values of a new one": float(weights(from_new)["sites.single_1.v.weight"].abs().max()),
    }


@check
def repeated():
    """The same settings give the same adapter, computed again or not, with learned guidance or without."""
    first, again, other, guided, guided_again = (
        train(name, steps=4, seed=seed, gradient_checkpointing=on, dino_guidance=guidance)[0]
        for name, seed, on, guidance in (
            ("first", 1, False, 1.0),
            ("again", 1, True, 1.0),
            ("other", 2, False, 1.0),
            ("guided", 1, False, 2.0),
            ("guided again", 1, True, 2.0),
        )
    )

    def differ(a, b) -> float:
        return max(float((t - weights(b)[n]).abs().max()) for n, t in weights(a).items())

    return {
        "same settings": differ(first, again),
        "another seed": differ(first, other),
        "with guidance": differ(first, guided),
        "same guidance": differ(guided, guided_again),
        "guidance told": guided.adapter.config.provenance["conditions"]["dino_guidance"],
    }


@check
def low_precision():
    """Adapters trained through a FLUX that computes in bf16, stored in bf16 and in fp8."""
    out = {}
    path = str(BASE / "models" / "diffusion_models" / "flux.safetensors")
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        model = comfy.sd.load_diffusion_model(path, model_options={"dtype": dtype})
        model.set_model_compute_dtype(torch.bfloat16)  # as a GPU would; the CPU's own choice is float32
        name = str(dtype).removeprefix("torch.")
        made, _ = train(name, model=model, steps=6, gradient_checkpointing=True)
        out[name] = {
            "computed in": str(model.model.get_dtype_inference()),
            "stored in": str(next(model.model.diffusion_model.double_blocks[0].img_mlp.parameters()).dtype),
            "finite": all(bool(t.isfinite().all()) for t in weights(made).values()),
            "values": float(weights(made)["sites.double_0.v.weight"].abs().max()),
            "adapter": sorted({str(t.dtype) for t in load_adapter(saved(name)[0]).module.state_dict().values()}),
        }
    return out


@check
def remembered():
    """Encoders that are made anew for every prompt, as with --cache-none, and one of other weights."""
    found, computed = [], []
    for name in ("dino.safetensors", "dino.safetensors", f"{DEMO}.safetensors"):
        encoder = node(nodes.LoadDino, name)
        found.append(node(nodes.ExtractPatches, encoder, picture(77), "2/3", 224, 1).patches)
        computed.append(encoder.computed)
    return {"computed": computed, "same": same(found[0], found[1]), "other": apart(found[2], found[0])}


@check
def replaced():
    """What decides whether a loader runs again: of one file, of a model in two shards, and of a name that a link brings."""
    place = BASE / "models" / "dino"
    state = load_file(place / "dino.safetensors")
    halves = [dict(list(state.items())[half::2]) for half in (0, 1)]
    names = [f"shards-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, place / name)
    loader = nodes.LoadDino.fingerprint_inputs
    before = [loader(name) for name in ("dino.safetensors", names[0], None)]
    kept = before == [loader(name) for name in ("dino.safetensors", names[0], None)]
    save_file({name: tensor + 1 for name, tensor in halves[1].items()}, place / names[1])
    after = [loader(name) for name in ("dino.safetensors", names[0], None)]
    for name in names:
        (place / name).unlink()
    return {"kept": kept, "changed": [a != b for a, b in zip(before, after, strict=True)]}


@check
def encodings():
    """Crops, scales and the context's grid, from New and Train to the one-node path."""
    pixels = picture(0)
    views = {how: node(nodes.ExtractPatches, dino(), pixels, "2/3", 224, *how) for how in ((1,), (2,), (2, "apart"))}
    untrained = {how: node(nodes.NewAdapter, flux(), dino(), "2/3", "all", 16, 4, 2, 4, 1, 3, *how) for how in views}
    refused = {
        f"{made} with {seen}": refusal(partial(project, untrained[made], views[seen]))
        for made in views
        for seen in views
        if made != seen
    }
    fits = [len(project(untrained[how], views[how])[0]) for how in views]
    apart_, _ = train("apart", crops=2, scales="apart", context_grid=3, steps=1)
    on, _ = train("apart on", adapter=apart_, steps=1)
    whole, _ = train("context", mechanisms="context", grid=14, context_grid=14, steps=1)
    lengths = []
    model = watch(patched(whole), lambda call: lengths.append(call.context.shape[1]))
    told = {"positive": text(0, tokens=512), "negative": text(1, tokens=512)}
    sample(model, *project(whole, views[1,], **told), steps=1)
    return {
        "refused": refused,
        "fits": fits,
        "configuration": [[c.how, c.dino_width, c.context_grid] for c in (apart_.adapter.config, on.adapter.config)],
        "picture": list(upscale(vae=vae(), dino=dino(), chosen=apart_).shape),
        "context": sorted(set(lengths)),
    }


def caught(name: str, **settings) -> str:
    try:
        train(name, **settings)
    except BaseException as error:
        return type(error).__name__
    return "nothing"


def counted(action, *, stop: int = 0):
    """What an action gives, and the steps of which it told; the user interrupts at step ``stop``."""
    steps = []

    def hook(value, total, preview, node_id=None):
        steps.append(value)
        if value == stop:
            management.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        return action(), steps
    finally:
        comfy.utils.set_progress_bar_global_hook(None)


def runs() -> list:
    """The folders of unfinished trainings."""
    return sorted((BASE / "output" / "dinotile" / "training").glob("*"))


@check
def resumed():
    """A run that is interrupted at step 5 of 9, asked for again with other inputs and with the same ones."""
    for place in runs():
        shutil.rmtree(place)
    settings = {"steps": 9, "dino_guidance": 2.0, "remember": 0}
    whole, _ = train("whole", **settings)
    after_whole = runs()
    said, _ = counted(partial(caught, "parts", **settings), stop=5)
    (place,) = runs()
    kept = [found.name for found in checkpoints(place)]
    more = folder("more", [(64, 64), (64, 80), (72, 64), (64, 64), (80, 64), (64, 64), (64, 64)])
    other = {
        "seed": {"seed": 2},
        "learning rate": {"learning_rate": 1e-3},
        "pictures": {"folder": more},
        "FLUX": {"model": flux("flux-dev")},
        "adapter": {"adapter": adapter()},
    }
    begun = {name: counted(partial(caught, name, **settings | changed), stop=1)[1] for name, changed in other.items()}
    beside = len(runs())
    parts, told = counted(lambda: train("parts again", **settings)[0])
    return {
        "said": said,
        "folders after a whole run": len(after_whole),
        "kept": kept,
        "others begin at": {name: steps[0] for name, steps in begun.items()},
        "folders beside": beside,
        "told": told,
        "apart": max(apart(t, weights(whole)[n]) for n, t in weights(parts).items() if t.any()),
        "left": place in runs(),
        "steps": [load_adapter(path).config.provenance["steps"] for path in saved("parts") + saved("parts again")],
    }


@check
def progress():
    """What the one node tells of its work, with tiles one by one; and with a sampler of two evaluations in a step."""
    out = {"tiles": plan(64, 16, 128, 160).count}
    for sampler in ("euler", "heun"):
        shown = out[sampler] = []
        comfy.utils.set_progress_bar_global_hook(lambda *told, seen=shown, **names: seen.append(told[:2]))
        settings = (2.0, 0.5, 3, sampler, "simple", 1.0, 64, 16, 1.0, 0)
        patcher = type(flux())
        changed = {
            (patcher, "get_free_memory"): lambda self, device: 0,  # of all clones too
            (comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL"): 0,
            (comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT"): 0,
        }
        before = {place: getattr(*place) for place in changed}
        try:
            for place, value in changed.items():
                setattr(*place, value)
            small = picture(height=64, width=80)
            node(nodes.Upscale, small, flux(), vae(), text(0), text(1), *settings, dino(), adapter())
        finally:
            comfy.utils.set_progress_bar_global_hook(None)
            for place, value in before.items():
                setattr(*place, value)
    return out


@check
def interrupted():
    """The user's interrupt at step 3 of 40, before the first step, and while a picture is encoded."""
    said, _ = counted(partial(caught, "stopped", steps=40), stop=3)
    management.interrupt_current_processing()
    early = caught("early", steps=2)
    in_training, flag = management.in_training, management.processing_interrupted()
    three, _ = train("three", steps=40)
    after = load_adapter(saved("stopped")[0])
    begun = node(nodes.LoadAdapter, f"made/{saved('stopped')[0].name}")
    return {
        "said": said,
        "files": len(saved("stopped")),
        "steps": after.config.provenance["steps"],
        "trained": after.trained,
        "said before the first step": early,
        "files before the first step": len(saved("early")),
        "in_training": in_training,
        "flag is left": flag,
        "next run": three.adapter.config.provenance["steps"],
        "goes on": train("on", steps=1, adapter=begun)[0].adapter.config.provenance["steps"],
    }


def patches_in_patches() -> int:
    """How many trainings' patches lie in one another after trainings with nothing between them."""
    deepest = 0
    with host_training.gradients():
        for _ in range(3):
            host = host_training.TrainingHost(flux(), decoder(flux()), copied(adapter().adapter))
            replaced = host.patcher.model_options["transformer_options"].get("patches_replace", {}).get("dit", {})
            for each in (*host.patcher.object_patches.values(), *replaced.values()):
                depth = 0
                while isinstance(each, host_training.TrainedForward | host_training.TrainedBlock):
                    each, depth = getattr(each, "forward", None) or getattr(each, "inner", None), depth + 1
                deepest = max(deepest, depth)
    return deepest


def beside_the_sampler() -> float:
    """How far a training's velocity is from that of the host's own sampling, of the same text and DINO rows."""
    model, chosen, found = flux(), adapter(), features()
    ((context, more),) = text(0)
    told = {name: value for name, value in more.items() if name != "guidance" or used().family.name != "chroma"}
    noise, level = random_latent(3), 0.6
    positive = project(chosen, found, positive=[[context, told]])[0]
    sigmas = torch.tensor([level, 0.0])
    sampled = sample(patched(chosen), positive, latent=torch.zeros_like(noise), noise=noise, sigmas=sigmas)
    x = level * noise
    wanted = (x - model.model.process_latent_in(sampled)) / level
    with host_training.gradients(), torch.no_grad():
        frozen = host_training.TrainingHost(model, decoder(model), copied(chosen.adapter))
        tokens = frozen.adapter.module.project(found.to(frozen.device))
        heard = Text(context.clone(), more.get("pooled_output", torch.zeros(1, 0)).clone(), 3.5)
        row, flat_x = DinoRow(tokens, settings=Strength(1.0)), flat(x).clone()
        velocity = frozen.velocity(flat_x, sigmas[:1].clone(), text=heard, rows=[row])
    return apart(velocity, flat(wanted))


@check_every_family
def of_family():
    """An adapter of a family, and the same trained with checkpointing."""
    model, name = flux(), used().family.name
    plain = sample(model, text(0))
    of = {"model": model, "vae": decoder(model)}
    learned, again = (train(f"{name} {on}", gradient_checkpointing=on, **of)[0].adapter for on in (False, True))
    weights, others = (dict(one.module.named_parameters()) for one in (learned, again))
    return {
        "family": learned.config.geometry.family,
        "mechanisms": learned.config.mechanisms,
        "values": [float(weight.abs().max()) for name, weight in weights.items() if name.endswith(".v.weight")],
        "checkpointed": max(float((weights[name] - others[name]).abs().max()) for name in weights),
        "beside the sampler": beside_the_sampler(),
        "patches in patches": patches_in_patches(),
        "the model is as it was": same(sample(model, text(0)), plain),
    }


def outside() -> list[str]:
    """Folders that a node may not say anything about; some of them exist."""
    (BASE / "input").mkdir(exist_ok=True)
    for name, target in (("link", BASE / "output"), ("dead", BASE / "nothing")):
        (BASE / "input" / name).unlink(missing_ok=True)
        (BASE / "input" / name).symlink_to(target)
    above = ["..", "../output", "../nothing", "link", "dead", "link/../../output", "/", "a\0b", f"{OUT}x"]
    return [str(BASE), str(BASE / "nothing"), str(OUT.parent), *above]


def unknown() -> list[str]:
    """Folders that are not in input; nothing is made of tildes and patterns."""
    (BASE / "input" / "known").mkdir(exist_ok=True)
    return ["known/nowhere", "kn*", "know[n]", "{known,other}", "~", "~root", "~nobody", "x" * 300]


@check
def refusals():
    empty = OUT / "empty"
    empty.mkdir(exist_ok=True)
    broken = OUT / "broken"
    broken.mkdir(exist_ok=True)
    (broken / "a.png").write_bytes(b"no picture")
    elsewhere = OUT / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (PATCHES / "occupied").write_bytes(b"")
    other = node(nodes.LoadAdapter, "for-other-dino.safetensors")
    actions = {
        "no folder": lambda: train("bad", folder="  "),
        "missing folder": lambda: train("bad", folder=str(OUT / "nowhere")),
        "missing folder in input": lambda: train("bad", folder="nowhere"),
        "empty folder": lambda: train("bad", folder=str(empty)),
        "unreadable": lambda: train("bad", folder=str(broken)),
        "tiny": lambda: train("bad", folder=folder("tiny", [(16, 20)])),
        "picture off the grid": lambda: train("bad", picture=40),
        "name outside": lambda: train("bad", filename_prefix="../outside"),
        "absolute name": lambda: train("bad", filename_prefix=str(elsewhere / "x")),
        "name below a file": lambda: train("bad", filename_prefix="occupied/x"),
        "no name": lambda: train("bad", filename_prefix=""),
        "adapter of another DINO": lambda: train("bad", adapter=other),
        "adapter of another FLUX": lambda: train("bad", model=flux("flux-wide"), adapter=adapter()),
        "layers": lambda: train("bad", layers="9"),
        "VAE of another FLUX": lambda: train("bad", model=flux("flux2")),
        "FLUX.1 Fill": lambda: train("bad", model=fill_model()),
        "NaN": lambda: train("bad", vae=vae("vae-nan")),
        "tile above picture": lambda: train("bad", picture=32, tile=64),
    }
    said = {name: refusal(action) for name, action in actions.items()}
    (PATCHES / "occupied").unlink()
    return {
        "said": said,
        "said outside": {name: refusal(partial(train, "bad", folder=name)) for name in outside()},
        "said of unknown": {name: refusal(partial(train, "bad", folder=name)) for name in unknown()},
        "files": [path.name for path in saved("bad")] + [path.name for path in elsewhere.iterdir()],
        "afterwards": train("fine", steps=1)[0].adapter.trained,
    }


if __name__ == "__main__":
    main()
