"""Checks for inside.py: DINO under ComfyUI's model management, and ComfyUI's own DINOv2 and DINOv3."""

from __future__ import annotations

import json
from types import SimpleNamespace

import comfy.clip_vision
import comfy.model_management as management
import folder_paths
import torch
from comfy.cli_args import args
from inside_tools import BASE, HOST, OUT, apart, check, dino, features, near, node, picture, project, refusal, same
from safetensors.torch import load_file, save_file

from dinotile import nodes
from dinotile.dino.backbone import build_model
from dinotile.dino.specs import SPECS
from dinotile.files.fingerprints import file_fingerprint
from dinotile.hosts.comfy.folders import model_files

OTHER = "dino.safetensors [clip_vision]"


def clip_vision_of(config: dict, state: dict) -> tuple:
    """ComfyUI's CLIP_VISION in full precision, and how many tensors are missing or unexpected."""
    args.fp32_text_enc = True  # or it would keep its weights in half precision
    clip = comfy.clip_vision.ClipVisionModel(config)
    args.fp32_text_enc = False
    missing, unexpected = clip.load_sd(state)
    return clip, {"missing": len(missing), "unexpected": len(unexpected)}


def held(patcher) -> bool:
    return any(loaded.model is patcher for loaded in management.current_loaded_models)


@check
def managed():
    """Which models ComfyUI holds after the pack's nodes, and features after it let go of them."""
    management.unload_all_models()
    fresh = node(nodes.LoadDino, "dino.safetensors")

    def encode(seed: int, by=fresh):
        return node(nodes.ExtractPatches, by, picture(seed), "2/3", 224, 1)

    out = {"DINO before": held(fresh.backbone.patcher)}
    first = encode(20)
    out["DINO after Extract DINO Patches"] = held(fresh.backbone.patcher)
    management.unload_all_models()
    out["DINO after unload_all_models"] = held(fresh.backbone.patcher)
    out["remembered features are the first"] = same(encode(20).patches, first.patches)
    out["DINO after remembered features"] = held(fresh.backbone.patcher)
    second, expected = encode(21), encode(21, node(nodes.LoadDino, "dino.safetensors"))
    out["DINO after another picture"] = held(fresh.backbone.patcher)
    out["another picture's features are a fresh encoder's"] = near(second.patches, expected.patches)
    chosen = node(nodes.LoadAdapter, "trained.safetensors")
    project(chosen, features())
    return out | {"adapter after Project DINO Conditioning": held(chosen.patcher)}


@check
def one_name_twice():
    """What Load DINO Model offers where models/clip_vision has a file of the same name, and what it loads by either name."""
    other = BASE / "models" / "clip_vision" / "dino.safetensors"
    first = BASE / "models" / "dino" / "dino.safetensors"
    alone = model_files("dino", "clip_vision")
    try:
        save_file({name: -tensor for name, tensor in load_file(first).items()}, other)
        both = model_files("dino", "clip_vision")
        loaded = {name: node(nodes.LoadDino, name).fingerprint for name in ("dino.safetensors", OTHER)}
        other.unlink()
        other.symlink_to(first)
        linked = model_files("dino", "clip_vision")
    finally:
        other.unlink()
    return {
        "new names": sorted(set(both) - set(alone)),
        "lost names": sorted(set(alone) - set(both)),
        "the old name is the file in models/dino": loaded["dino.safetensors"] == file_fingerprint(first),
        "the other name is another file": loaded["dino.safetensors"] != loaded[OTHER],
        "one file by two ways is offered once": linked == alone,
        "told": refusal(lambda: node(nodes.LoadDino, "dino.safetensors [dino]")),
    }


@check
def clip_vision():
    config = {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "layer_norm_eps": 1e-6, "patch_size": 14,
        "image_size": 168, "use_swiglu_ffn": False, "model_type": "dinov2", "use_mask_token": True,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    clip, out = clip_vision_of(config, load_file(BASE / "models" / "dino" / "dino.safetensors"))
    own = node(nodes.DinoFromClipVision, clip)
    image = picture(7, height=168, width=168)
    for layers in ("2/3", "last", "1,2,4"):
        ours = node(nodes.ExtractPatches, dino(), image, layers, 168, 1)
        theirs = node(nodes.ExtractPatches, own, image, layers, 168, 1)
        out[f"layers {layers}"] = max(apart(theirs.patches, ours.patches), apart(theirs.cls, ours.cls))
    wide = picture(7, height=168, width=336)
    ours, theirs = (node(nodes.ExtractPatches, d, wide, "2/3", 336, 1) for d in (dino(), own))
    out["another size"] = apart(theirs.patches, ours.patches)
    not_dino = SimpleNamespace(config={"model_type": "siglip_vision_model", "hidden_size": 1152}, model=None)
    return out | {"refused": refusal(lambda: node(nodes.DinoFromClipVision, not_dino))}


@check
def clip_vision_dinov3():
    """ComfyUI's DINOv3 and transformers', which Load DINO Model takes from models/clip_vision, on the same weights."""
    spec, generator = SPECS["dinov3-small"], torch.Generator().manual_seed(9)
    state = {}
    for name, tensor in build_model(spec).state_dict().items():
        size = 0.1 if tensor.ndim == 1 else tensor[0].numel() ** -0.5
        noise = torch.randn(tensor.shape, generator=generator) * size
        state[name.removeprefix("model.")] = noise + 1 if "norm" in name and "weight" in name else noise
    folder = OUT / "clip_vision"
    folder.mkdir()
    save_file(state, folder / "dinov3.safetensors")
    folder_paths.add_model_folder_path("clip_vision", str(folder))
    config = json.loads((HOST / "comfy" / "image_encoders" / "dino3_large.json").read_text()) | {
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.mlp_width,
    }
    clip, out = clip_vision_of(config, state)
    image = picture(8, height=64, width=96)
    encoders = {"ours": node(nodes.LoadDino, "dinov3.safetensors"), "own": node(nodes.DinoFromClipVision, clip)}
    found = {name: node(nodes.ExtractPatches, each, image, "last", 96, 1) for name, each in encoders.items()}
    own, ours = found["own"], found["ours"]
    return out | {
        "spec": encoders["own"].spec.name,
        "grid": list(own.patches.shape),
        "patches": apart(own.patches, ours.patches),
        "cls": apart(own.cls, ours.cls),
        "patches vary by": apart(ours.patches[:, 0, 0], ours.patches[:, -1, -1]),
        "refused": refusal(lambda: node(nodes.ExtractPatches, encoders["own"], image, "2/3", 96, 1)),
    }
