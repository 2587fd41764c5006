"""The names that DINO weights go by: transformers' (old and new), Meta's, timm's, and one plain form of all.

Plain names: embeddings.cls_token, embeddings.register_tokens, ..., layer.N.attention.{q,k,v,o}_proj,
layer.N.mlp.{gate,up,down}_proj (without the gate where the MLP is not gated), ..., norm.
"""

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files.errors import printable, whole
from .specs import SPECS, DinoSpec

Shapes = Mapping[str, tuple[int, ...]]
_RENAMES = [
    (re.compile(pattern), plain)
    for pattern, plain in [
        # timm
        (r"^reg_token$", "embeddings.register_tokens"),
        (r"\.gamma_([12])$", r".layer_scale\1.lambda1"),
        (r"\.attn\.([qv])_bias$", r".attention.\1_proj.bias"),
        (r"\.mlp\.fc1_g\.", ".mlp.gate_proj."),
        (r"\.mlp\.fc1_x\.", ".mlp.up_proj."),
        # Meta
        (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
        (r"^storage_tokens$", "embeddings.register_tokens"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        (r"^rope_embed\.", "rope_embeddings."),
        (r"^blocks\.", "layer."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.attn\.", ".attention."),
        (r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),
        (r"\.mlp\.w1\.", ".mlp.gate_proj."),
        (r"\.mlp\.w2\.", ".mlp.up_proj."),
        (r"\.mlp\.w3\.", ".mlp.down_proj."),
        (r"\.mlp\.w12\.", ".mlp.gate_up."),
        # transformers
        (r"^(encoder|model)\.layer\.", "layer."),
        (r"^embeddings\.patch_embeddings\.projection\.", "embeddings.patch_embeddings."),
        (r"\.attention\.attention\.query\.", ".attention.q_proj."),
        (r"\.attention\.attention\.key\.", ".attention.k_proj."),
        (r"\.attention\.attention\.value\.", ".attention.v_proj."),
        (r"\.attention\.output\.dense\.", ".attention.o_proj."),
        (r"\.mlp\.weights_in\.", ".mlp.gate_up."),
        (r"\.mlp\.weights_out\.", ".mlp.down_proj."),
        (r"^layernorm\.", "norm."),
        # all
        (r"\.mlp\.fc1\.", ".mlp.up_proj."),
        (r"\.mlp\.fc2\.", ".mlp.down_proj."),
    ]
]
# One tensor that holds several plain ones, stacked along its first axis in this order.
_FUSED = {"qkv": ("q_proj", "k_proj", "v_proj"), "gate_up": ("gate_proj", "up_proj")}
# Part of published files, but not of the patch features.
_HARMLESS = re.compile(
    r"rope_embeddings\.|local_cls_norm\.|cls_norm\.|(classifier|head|linear_head|pooler)\.|.*\.bias_mask$"
)
_KNOWN = re.compile(
    r"embeddings\.(cls_token|mask_token|register_tokens|position_embeddings|patch_embeddings\.(weight|bias))$"
    r"|layer\.\d+\.(norm[12]|attention\.(qkv|[qkvo]_proj)|layer_scale[12]|mlp\.(gate_up|gate_proj|up_proj|down_proj))\."
    rf"|norm\.(weight|bias)$|{_HARMLESS.pattern}"
)


def plain_name(name: str) -> str:
    """A tensor's plain name; what belongs to no known layout keeps its name."""
    for pattern, plain in _RENAMES:
        name = pattern.sub(plain, name)
    return name


def parts_of(plain: str) -> list[str]:
    """The plain names that a fused tensor is made of; otherwise just the name itself."""
    for fused, parts in _FUSED.items():
        if f".{fused}." in plain:
            return [plain.replace(fused, part) for part in parts]
    return [plain]


def without_prefix(names: list[str]) -> dict[str, str]:
    """Names without the prefix of a wrapper such as "dinov2." or "backbone.", by full name."""
    ends = ("embeddings.cls_token", "cls_token")
    prefix = next((name.removesuffix(end) for end in ends for name in names if name.endswith(end)), "")
    return {name: name.removeprefix(prefix) for name in names}


def plain_names(shapes: Shapes) -> dict[str, str]:
    """The plain name of every tensor; timm's packed SwiGLU tells itself from an MLP by its shape alone."""
    plain = {name: plain_name(short) for name, short in without_prefix(list(shapes)).items()}
    by_plain = {plain[name]: tuple(shape) for name, shape in shapes.items()}
    up, down = (by_plain.get(f"layer.0.mlp.{half}_proj.weight", ()) for half in ("up", "down"))
    packed = len(up) == len(down) == 2 and up[0] == 2 * down[1]
    return {name: each.replace(".mlp.up_proj.", ".mlp.gate_up.") if packed else each for name, each in plain.items()}


def detect_spec(shapes: Shapes) -> DinoSpec:
    """Which encoder has tensors of these names and shapes, in any layout; ValueError if none of SPECS has."""
    names = plain_names(shapes)
    plain = {names[name]: tuple(shape) for name, shape in shapes.items()}
    blocks = [match[1] for match in (re.match(r"layer\.(\d{1,4})\.", name) for name in plain) if match]
    cls = plain.get("embeddings.cls_token", ())
    kernel = plain.get("embeddings.patch_embeddings.weight", ())
    down = plain.get("layer.0.mlp.down_proj.weight", ())
    if len(cls) != 3 or len(kernel) != 4 or len(down) != 2 or "layer.0.norm1.weight" not in plain:
        unknown = next((name for name in shapes if not _KNOWN.match(names[name])), "")
        some = (
            f"{printable(unknown)}, which no layout has"
            if unknown
            else f"only {', '.join(map(printable, list(shapes)[:3]))}"
        )
        raise ValueError(
            f"this is not a DINOv2 or DINOv3 vision transformer (it holds {some if shapes else 'no tensors at all'}), "
            "allowed are DINOv2 S/B/L/g, with registers or without, and DINOv3 S/S+/B/L/H+, as transformers, Meta or timm name "
            "their tensors: choose such a file"
        )
    positions = plain.get("embeddings.position_embeddings")
    registers = plain.get("embeddings.register_tokens")
    gated = any(f"layer.0.mlp.{name}.weight" in plain for name in ("gate_proj", "gate_up"))
    with whole("this file", "DINO encoder"):
        got = {
            "family": "dinov2" if positions else "dinov3",
            "width": cls[2],
            "depth": max(map(int, blocks)) + 1,
            "patch": kernel[-1],
            "registers": registers[1] if registers else 0,
            "mlp": "swiglu" if gated else "gelu",
            "mlp_width": down[1],
            "train_side": kernel[-1] * _side(positions[1]) if positions else 0,
        }
    for spec in SPECS.values():
        if all(getattr(spec, field) == value for field, value in got.items()):
            return spec
    seen = ", ".join(f"{field} {value}" for field, value in got.items())
    raise ValueError(f"no known encoder has {seen}, allowed are {', '.join(SPECS)}: choose a file of one of these")


def _side(positions: int) -> int:
    """Of the grid that so many positions are, with one for the CLS token or, as timm keeps them beside registers, without."""
    side = math.isqrt(positions)
    return side if positions and side * side == positions else math.isqrt(positions - 1)


def plain_weights(state: Mapping[str, Tensor], spec: DinoSpec) -> dict[str, Tensor]:
    """The weights under plain names, fused tensors split, extras that patch features do not need left out."""
    names = plain_names({name: tuple(tensor.shape) for name, tensor in state.items()})
    weights = {}
    for name, tensor in state.items():
        plain = names[name]
        if _HARMLESS.match(plain) or _HARMLESS.match(name):
            continue
        parts = parts_of(plain)
        with whole("this file", "DINO encoder"):
            weights.update(zip(parts, tensor.chunk(len(parts)) if len(parts) > 1 else [tensor], strict=True))
    if spec.family == "dinov3":  # Meta keeps a key bias there that its own bias_mask turns off
        weights = {name: tensor for name, tensor in weights.items() if not name.endswith(".k_proj.bias")}
    mask = weights.get("embeddings.mask_token", torch.zeros(spec.width))  # for training only, some files lack it
    with whole("this file", "DINO encoder"):
        shape = (1, spec.width) if spec.family == "dinov2" else (1, 1, spec.width)
        weights["embeddings.mask_token"] = mask.reshape(shape)
    if any(name.endswith("reg_token") for name in state):
        _complete_timm(weights, spec)
    return weights


def _complete_timm(weights: dict[str, Tensor], spec: DinoSpec) -> None:
    """Put in what timm leaves out beside registers: the CLS token's position, which it adds to the token, and the biases
    of queries and values of DINOv3, which are zero in all files but its qkvb ones."""
    positions = weights.get("embeddings.position_embeddings")
    if positions is not None and positions.ndim == 3:
        weights["embeddings.position_embeddings"] = F.pad(positions, (0, 0, 1, 0))
    for block in range(spec.depth if spec.family == "dinov3" else 0):
        for part in ("q", "v"):
            weights.setdefault(f"layer.{block}.attention.{part}_proj.bias", torch.zeros(spec.width))
