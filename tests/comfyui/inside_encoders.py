"""Checks for inside.py: DINO under ComfyUI's model management, and ComfyUI's own DINOv2 and DINOv3."""

from __future__ import annotations

import json
from types import SimpleNamespace

import comfy.model_management as management
import folder_paths
import torch
from comfy.cli_args import args
from inside_sampling import project
from inside_tools import BASE, HOST, OUT, apart, check, features, host_clip_vision, near, node, picture, refusal, same
from safetensors.torch import load_file, save_file

from dinotile import nodes
from dinotile.dino.backbone import build_model
from dinotile.dino.specs import SPECS, DinoSpec
from dinotile.files.fingerprints import file_fingerprint
from dinotile.hosts.comfy.folders import model_files

OTHER = "dino.safetensors [clip_vision]"


def clip_vision_of(config: dict, state: dict) -> tuple:
    """ComfyUI's CLIP_VISION in full precision, and how many tensors are missing or unexpected."""
    args.fp32_text_enc = True  # or it would keep its weights in half precision
    clip = host_clip_vision(config)
    args.fp32_text_enc = False
    missing, unexpected = clip.load_sd(state)
    return clip, {"missing": len(missing), "unexpected": len(unexpected)}


def written(spec: DinoSpec) -> tuple[str, dict]:
    """A file in models/clip_vision with fresh weights of a spec: its name, and the weights under their published names."""
    generator = torch.Generator().manual_seed(9)
    model = build_model(spec)
    for name, tensor in model.named_parameters():
        size = 0.1 if tensor.ndim == 1 else 0.5 if "position" in name else tensor[0].numel() ** -0.5
        noise = torch.randn(tensor.shape, generator=generator) * size
        tensor.data = noise + 1 if "norm" in name and "weight" in name else noise
    folder = OUT / "clip_vision" / spec.name
    model.save_pretrained(folder)
    folder_paths.add_model_folder_path("clip_vision", str(folder.parent))
    return f"{spec.name}/model.safetensors", load_file(folder / "model.safetensors")


def compared(theirs, ours, cases: dict[str, tuple[int, int, str]]) -> dict:
    """How far the features of two encoders are apart, for pictures of (height, width) and layers."""
    out = {}
    for name, (height, width, layers) in cases.items():
        image = picture(7, height=height, width=width)
        a, b = (node(nodes.ExtractPatches, each, image, layers, max(height, width), 1) for each in (theirs, ours))
        out[name] = max(apart(a.patches, b.patches), apart(a.cls, b.cls))
        out[f"{name}, vary by"] = apart(b.patches[:, 0, 0], b.patches[:, -1, -1])
    return out


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
    """ComfyUI's DINOv2 and transformers', which Load DINO Model takes, on the same weights."""
    spec = SPECS["dinov2-small"]
    name, state = written(spec)
    config = {
        "hidden_size": spec.width, "num_hidden_layers": spec.depth, "num_attention_heads": spec.heads,
        "layer_norm_eps": 1e-6, "use_swiglu_ffn": False, "model_type": "dinov2",
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    clip, out = clip_vision_of(config, state)
    cases = {
        "trained size": (518, 518, "2/3"), "smaller": (168, 168, "2/3"), "last": (168, 168, "last"),
        "several": (168, 168, "1,8,12"), "wide": (168, 336, "2/3"), "larger": (532, 28, "last"),
    }  # fmt: skip
    out |= compared(node(nodes.DinoFromClipVision, clip), node(nodes.LoadDino, name), cases)
    not_dino = SimpleNamespace(config={"model_type": "siglip_vision_model", "hidden_size": 1152}, model=None)
    return out | {"refused": refusal(lambda: node(nodes.DinoFromClipVision, not_dino))}


@check
def clip_vision_dinov3():
    """ComfyUI's DINOv3 and transformers' on the same weights; empty where this ComfyUI has none."""
    config = HOST / "comfy" / "image_encoders" / "dino3_large.json"
    if not config.exists():
        return {}
    spec = SPECS["dinov3-small"]
    name, state = written(spec)
    clip, out = clip_vision_of(
        json.loads(config.read_text())
        | {
            "hidden_size": spec.width,
            "num_hidden_layers": spec.depth,
            "num_attention_heads": spec.heads,
            "intermediate_size": spec.mlp_width,
        },
        state,
    )
    own = node(nodes.DinoFromClipVision, clip)
    cases = {"last": (64, 96, "last"), "2/3": (64, 96, "2/3"), "several": (96, 64, "1,8,12")}
    return out | compared(own, node(nodes.LoadDino, name), cases) | {"spec": own.spec.name}
