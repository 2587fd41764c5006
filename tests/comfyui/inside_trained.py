"""Checks for inside_training.py: what the node learns, from what on, and from which features."""

from __future__ import annotations

from functools import partial

import comfy.model_management as management
import comfy.sd
import comfy.utils
import torch
from inside_sampling import patched, project, sample, text, upscale, watch
from inside_tools import BASE, DEMO, adapter, apart, check, dino, flux, node, picture, refusal, same, saved
from safetensors.torch import load_file, save_file
from training_tools import fixed_loss, train, vae, weights

from dinotile import nodes
from dinotile.flux_patch.checkpoint import load_adapter


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
