"""Checks for inside.py: FlatDINO under ComfyUI's model management, and what its nodes refuse."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import comfy.model_management as management
import numpy as np
import torch
from inside_sampling import patched, project, sample, tiled
from inside_tools import BASE, DEMO, PACK, adapter, apart, check, dino, features, node, picture, refusal, same
from PIL import Image

from dinotile import nodes
from dinotile.dino.compress.checkpoint import load_flat, save_flat
from dinotile.dino.compress.config import FlatConfig
from dinotile.dino.compress.model import new_flat
from dinotile.flux_patch.checkpoint import load_adapter, new_adapter, save_adapter
from dinotile.hosts.comfy.folders import model_files

GRID = (8, 8)
LEVELS = {"levels": (8, 5, 5), "features": 3, "nested": True}


def written(name: str, *, seed: int = 0, **changes) -> str:
    """A file in models/flatdino for block 3 of the DINO of these checks."""
    spec = dino().spec
    told = {"dino": spec.name, "width": spec.width, "how": "3", "grid": GRID, "tokens": 6, "features": 8}
    place = BASE / "models" / "flatdino"
    place.mkdir(exist_ok=True)
    save_flat(new_flat(FlatConfig(**{**told, "encoder": "p", "decoder": "p", **changes}), seed=seed), place / name)
    return name


def extracted(seed: int = 0, side: int = GRID[0] * 14, layers: str = "2/3"):
    return node(nodes.ExtractPatches, dino(), picture(seed, height=200, width=200), layers, side, 1)


def held(patcher) -> bool:
    return any(loaded.model is patcher for loaded in management.current_loaded_models)


@check
def compressed():
    flat = node(nodes.LoadFlatDino, written("flat.safetensors"))
    found = extracted()
    management.unload_all_models()
    out = {"before": held(flat.patcher)}
    tokens = node(nodes.CompressFeatures, flat, found)
    out["after Compress"] = held(flat.patcher)
    management.unload_all_models()
    out["after unload"] = held(flat.patcher)
    back = node(nodes.RestoreFeatures, flat, tokens, 0)
    out["after Restore"] = held(flat.patcher)
    alone = load_flat(BASE / "models" / "flatdino" / "flat.safetensors").module
    wanted = alone.decode(alone.encode(found.patches))
    other = node(nodes.RestoreFeatures, flat, node(nodes.CompressFeatures, flat, extracted(1)), 0)
    out |= {
        "tokens": list(tokens.latents.shape),
        "differs from the module by": apart(back.patches, wanted),
        "differs from another picture's by": apart(back.patches, other.patches),
        "class token stays": same(back.cls, found.cls),
        "about": [back.spec == found.spec, back.layers == found.layers, back.image_size == found.image_size],
        "on": str(back.patches.device),
    }
    return out | previews(found, back)


def previews(found, back) -> dict:
    plain, own, shared = (node(nodes.PreviewPatches, *inputs) for inputs in ((found,), (back,), (back, found)))
    again = node(nodes.PreviewPatches, found, found)
    return {
        "sizes": [list(each.shape) for each in (plain, own, shared)],
        "own colours are other ones by": apart(own, shared),
        "like itself is plain": same(again, plain),
    }


@check
def shared_tokens():
    """An adapter with a FlatDINO in it, whose latents of the whole picture all tiles see: loaded, moved and freed by the host."""
    flat = load_flat(BASE / "models" / "flatdino" / written("flat.safetensors"))
    place = BASE / "models" / "model_patches" / "shared.safetensors"
    trained = adapter("cross").adapter  # whose other weights it has
    fresh = new_adapter(replace(trained.config, flat=flat.config), seed=4, flat=flat)
    fresh.module.load_state_dict(trained.module.state_dict(), strict=False)
    save_adapter(fresh, place, trained=True)
    chosen, found, other = node(nodes.LoadAdapter, place.name), features(), features(1)
    management.unload_all_models()
    alone, tokens = load_adapter(place).module, chosen.project(found)
    out = {
        "held": held(chosen.patcher),
        "differs from the module by": apart(tokens.shared, alone.project(found).shared),
    }
    model, plain = tiled(patched(chosen)), tiled(patched(adapter("cross")))
    drawn, again, without = (sample(each, project(by, found)[0]) for each, by in (
        (model, chosen), (model, chosen), (plain, adapter("cross"))
    ))  # fmt: skip
    module, out["again"] = chosen.adapter.module, same(drawn, again)
    own = module.shared.forward
    module.shared.forward = lambda patches: own(other.patches.to(patches))
    out["with latents of another picture"] = apart(sample(model, project(chosen, found)[0]), drawn)
    del module.shared.forward
    management.unload_all_models()
    after = sample(model, project(chosen, found)[0])
    return out | {"against none": apart(drawn, without), "after unloading": apart(after, drawn)}


@check
def demo_flatdino():
    """The pack's own FlatDINO on the middle of its sample photograph, by the names under which the host lists both."""
    with Image.open(PACK / "demo" / "sample.jpg") as photo:
        pixels = torch.from_numpy(np.asarray(photo.crop((64, 0, 320, 256))) / 255).float()[None]
    flat = node(nodes.LoadFlatDino, f"{DEMO}.safetensors")
    found = node(nodes.ExtractPatches, node(nodes.LoadDino, f"{DEMO}.safetensors"), pixels, "2/3", 168, 1)
    back = node(nodes.RestoreFeatures, flat, node(nodes.CompressFeatures, flat, found), 0)
    alike = torch.nn.functional.cosine_similarity(back.patches, found.patches, dim=-1)
    return {"cosine": float(alike.mean()), "offered": model_files("flatdino")}


@check
def nested():
    """Fewer tokens need a FlatDINO that is nested, and that a library which ComfyUI does not bring."""
    plain = node(nodes.LoadFlatDino, written("flat.safetensors"))
    tokens = node(nodes.CompressFeatures, plain, extracted())
    out = {"not nested": refusal(lambda: node(nodes.RestoreFeatures, plain, tokens, 2))}
    if importlib.util.find_spec("vector_quantize_pytorch") is None:
        return out | {"without the library": refusal(lambda: written("codes.safetensors", **LEVELS))}
    flat = node(nodes.LoadFlatDino, written("codes.safetensors", **LEVELS))
    tokens = node(nodes.CompressFeatures, flat, extracted())
    whole, few = (node(nodes.RestoreFeatures, flat, tokens, keep) for keep in (0, 2))
    return out | {
        "differs by": apart(few.patches, whole.patches),
        "too many": refusal(lambda: node(nodes.RestoreFeatures, flat, tokens, 7)),
    }


@check
def compress_refusals():
    flat = node(nodes.LoadFlatDino, written("flat.safetensors"))
    other = node(nodes.LoadFlatDino, written("other.safetensors", seed=1))
    foreign = node(nodes.LoadFlatDino, written("foreign-dino.safetensors", dino="dinov3-small"))
    tokens = node(nodes.CompressFeatures, flat, extracted())
    torch.save({}, BASE / "models" / "flatdino" / "pickle.safetensors")
    return {
        "another grid": refusal(lambda: node(nodes.CompressFeatures, flat, extracted(side=140))),
        "another layer": refusal(lambda: node(nodes.CompressFeatures, flat, extracted(layers="last"))),
        "another DINO": refusal(lambda: node(nodes.CompressFeatures, foreign, extracted())),
        "another FlatDINO": refusal(lambda: node(nodes.RestoreFeatures, other, tokens, 0)),
        "no file": refusal(lambda: node(nodes.LoadFlatDino, "nothing.safetensors")),
        "a pickle": refusal(lambda: node(nodes.LoadFlatDino, "pickle.safetensors")),
        "colours of another layer": refusal(lambda: node(nodes.PreviewPatches, extracted(), extracted(layers="last"))),
    }
