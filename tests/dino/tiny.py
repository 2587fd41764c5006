"""Tiny encoders of the real classes, and Meta's layout written down once more, independently of dino/layouts.py."""

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dinotile.dino.backbone import TransformersBackbone, build_model
from dinotile.dino.encode import DinoEncoder
from dinotile.dino.specs import DinoSpec

TINY = {
    spec.name: spec
    for spec in [
        DinoSpec("tiny-v2", "dinov2", 64, 4, 2, 14, 0, "gelu", 256, 112, 56),
        DinoSpec("tiny-v2-reg", "dinov2", 64, 4, 2, 14, 4, "gelu", 256, 112, 56),
        DinoSpec("tiny-v2-swiglu", "dinov2", 64, 2, 2, 14, 0, "swiglu", 176, 112, 56),
        DinoSpec("tiny-v3", "dinov3", 64, 4, 2, 16, 4, "gelu", 256, 128, 0),
        DinoSpec("tiny-v3-swiglu", "dinov3", 64, 2, 2, 16, 4, "swiglu", 192, 128, 0),
    ]
}


def random_model(spec: DinoSpec, seed: int = 0) -> nn.Module:
    """Every parameter random, so that a forgotten or swapped one shows."""
    torch.manual_seed(seed)
    model = build_model(spec).eval().requires_grad_(False)
    for name, parameter in sorted(model.named_parameters()):
        parameter.copy_(torch.randn(parameter.shape) * 0.15 + ("norm" in name and name.endswith("weight")))
    return model


def tiny_encoder(name: str, seed: int = 0) -> DinoEncoder:
    spec = TINY[name]
    return DinoEncoder(TransformersBackbone(random_model(spec, seed), spec), spec, fingerprint=f"{name}-{seed}")


def meta_shapes(spec: DinoSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes as facebookresearch/dinov2 and dinov3 publish them."""
    d, m = spec.width, spec.mlp_width
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, d),
        "mask_token": (1, d),
        "patch_embed.proj.weight": (d, 3, spec.patch, spec.patch),
        "patch_embed.proj.bias": (d,),
        "norm.weight": (d,),
        "norm.bias": (d,),
    }
    if spec.registers:
        shapes["register_tokens" if spec.family == "dinov2" else "storage_tokens"] = (1, spec.registers, d)
    if spec.family == "dinov2":
        shapes["pos_embed"] = (1, 1 + (spec.train_side // spec.patch) ** 2, d)
    else:
        shapes["rope_embed.periods"] = (d // spec.heads // 4,)
    block = {f"norm{i}.{p}": (d,) for i in (1, 2) for p in ("weight", "bias")}
    block |= {"attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,), "attn.proj.weight": (d, d)}
    block |= {"attn.proj.bias": (d,), "ls1.gamma": (d,), "ls2.gamma": (d,)}
    if spec.family == "dinov3":
        block["attn.qkv.bias_mask"] = (3 * d,)
    if spec.mlp == "gelu":
        linears = {"fc1": (m, d), "fc2": (d, m)}
    elif spec.family == "dinov2":
        linears = {"w12": (2 * m, d), "w3": (d, m)}
    else:
        linears = {"w1": (m, d), "w2": (m, d), "w3": (d, m)}
    for name, shape in linears.items():
        block |= {f"mlp.{name}.weight": shape, f"mlp.{name}.bias": shape[:1]}
    for number in range(spec.depth):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    return shapes


def meta_state(spec: DinoSpec, seed: int = 0) -> dict[str, Tensor]:
    """Random weights in Meta's layout; the buffers of dinov3 hold what the originals hold."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in meta_shapes(spec).items():
        state[name] = torch.randn(shape, generator=generator) * 0.15 + ("norm" in name and name.endswith("weight"))
        if name.endswith("bias_mask"):
            state[name] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(spec.width)
        if name == "rope_embed.periods":
            state[name] = 100.0 ** (2 * torch.arange(shape[0]) / (2 * shape[0]))
    return state


def timm_state(state: dict[str, Tensor], spec: DinoSpec, *, biases: bool = True) -> dict[str, Tensor]:
    """Meta's weights as timm 1.0.31 writes them (vit_*_patch14[_reg4]_dinov2, vit_*_patch16_dinov3[_qkvb]).

    biases: whether DINOv3's queries and values keep theirs, as in the qkvb models.
    """
    state = {name: tensor for name, tensor in state.items() if not re.search("mask|periods", name)}
    registers = state.pop("register_tokens", state.pop("storage_tokens", None))
    if registers is not None:
        state["reg_token"] = registers
        if spec.family == "dinov2":  # CLS brings its position, registers have none
            state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
            state["pos_embed"] = state["pos_embed"][:, 1:].clone()
    out = {}
    for name, tensor in state.items():
        for old, new in (
            ("mlp.w12", "mlp.fc1"),
            ("mlp.w1", "mlp.fc1_g"),
            ("mlp.w2", "mlp.fc1_x"),
            ("mlp.w3", "mlp.fc2"),
        ):
            if f"{old}." in name:
                name = name.replace(old, new)
                break
        if spec.family == "dinov3":
            name = re.sub(r"ls([12])\.gamma", r"gamma_\1", name)
            if name.endswith("qkv.bias"):
                queries, _, values = tensor.chunk(3)
                out |= {
                    name.replace("qkv.bias", f"{part}_bias"): bias
                    for part, bias in (("q", queries), ("v", values))
                    if biases
                }
                continue
        out[name] = tensor
    return out


def meta_forward(state: dict[str, Tensor], spec: DinoSpec, pixels: Tensor) -> list[Tensor]:
    """Tokens after every block, straight from Meta's names; for dinov2 pixels must have the trained size."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        eps = 1e-6 if spec.family == "dinov2" else 1e-5
        return F.layer_norm(x, (spec.width,), state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def rope(x: Tensor) -> Tensor:
        patches = x[:, :, spec.prefix :]
        h, w = pixels.shape[2] // spec.patch, pixels.shape[3] // spec.patch
        y, x_ = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        at = 2 * torch.stack([y, x_], dim=-1).view(-1, 2, 1) - 1
        angle = (2 * math.pi * at / state["rope_embed.periods"]).flatten(1).repeat(1, 2)
        low, high = patches.chunk(2, dim=-1)
        turned = patches * angle.cos() + torch.cat([-high, low], dim=-1) * angle.sin()
        return torch.cat([x[:, :, : spec.prefix], turned], dim=2)

    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=spec.patch)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).mT], dim=1)
    x = x + state.get("pos_embed", 0)
    registers = state.get("register_tokens", state.get("storage_tokens", torch.zeros(1, 0, spec.width)))
    x = torch.cat([x[:, :1], registers.expand(len(x), -1, -1), x[:, 1:]], dim=1)
    found = []
    for number in range(spec.depth):
        block = f"blocks.{number}"
        bias = state[f"{block}.attn.qkv.bias"] * state.get(f"{block}.attn.qkv.bias_mask", 1)
        qkv = F.linear(norm(x, f"{block}.norm1"), state[f"{block}.attn.qkv.weight"], bias)
        q, k, v = qkv.unflatten(2, (3, spec.heads, -1)).permute(2, 0, 3, 1, 4)
        if spec.family == "dinov3":
            q, k = rope(q), rope(k)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + state[f"{block}.ls1.gamma"] * linear(mixed, f"{block}.attn.proj")
        y = norm(x, f"{block}.norm2")
        if spec.mlp == "gelu":
            y = linear(F.gelu(linear(y, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        else:
            fused = f"{block}.mlp.w12.weight" in state
            gate, up = (
                linear(y, f"{block}.mlp.w12").chunk(2, dim=-1)
                if fused
                else (linear(y, f"{block}.mlp.w1"), linear(y, f"{block}.mlp.w2"))
            )
            y = linear(F.silu(gate) * up, f"{block}.mlp.w3")
        x = x + state[f"{block}.ls2.gamma"] * y
        found.append(x)
    return found
