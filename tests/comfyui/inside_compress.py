"""Checks for inside.py: FlatDINO under ComfyUI's model management, and what its nodes refuse."""

from __future__ import annotations

import importlib.util

import comfy.model_management as management
import numpy as np
import torch
from inside_tools import BASE, DEMO, PACK, apart, check, dino, node, picture, refusal, same
from PIL import Image

from dinotile import nodes
from dinotile.dino.compress.checkpoint import load_flat, save_flat
from dinotile.dino.compress.config import FlatConfig
from dinotile.dino.compress.model import new_flat
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
