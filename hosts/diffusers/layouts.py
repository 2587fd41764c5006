"""Which model a checkpoint holds, read from its tensors' names and shapes, as a diffusers config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...files.errors import printable, whole
from ...flux_patch.families import FLUX1, FLUX2, ModelFamily
from ...flux_patch.names import of_tensors
from .configs import other_model

Shapes = Mapping[str, tuple[int, ...]]
SCALES = (".scale_weight", ".weight_scale")  # of layers in 8-bit floats, in files for ComfyUI, older and newer ones
BESIDE = (
    "scaled_fp8",
    ".scale_input",
    ".input_scale",
    ".comfy_quant",
)  # what else they say, of no use to wide activations
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)


def flux_config(shapes: Shapes, *, name: str, kind: str = "transformer") -> dict[str, Any]:
    """diffusers' config of a FLUX transformer, or another ``kind`` of its layers, read from its tensors in either layout."""
    if other := of_tensors(shapes):
        raise other_model(name, None, title=other)
    diffusers_layout = "x_embedder.weight" in shapes
    if not diffusers_layout and "img_in.weight" not in shapes:
        some = ", ".join(map(printable, sorted(shapes)[:3])) or "nothing"
        raise ValueError(
            f"{name} is no FLUX transformer (it holds {some}): choose a FLUX.1 or FLUX.2 file in .safetensors"
        )
    family = FLUX2 if any(key.startswith("double_stream_modulation_img.") for key in shapes) else FLUX1
    names = {part: both[0 if diffusers_layout else 1] for part, both in _names(family).items()}
    with whole(name, f"{family.title} {kind}"):
        hidden, channels = shapes[names["image_in"]]
        head = shapes[names["head"]][0]
        config = {
            "_class_name": "FluxTransformer2DModel" if family is FLUX1 else "Flux2Transformer2DModel",
            "patch_size": 1,
            "in_channels": channels,
            "out_channels": shapes[names["out"]][0],
            "num_layers": _count(shapes, names["double"]),
            "num_single_layers": _count(shapes, names["single"]),
            "attention_head_dim": head,
            "num_attention_heads": hidden // head,
            "joint_attention_dim": shapes[names["text_in"]][1],
            "guidance_embeds": names["guidance"] in shapes,
            "axes_dims_rope": list(family.axes),
        }
        if family is FLUX1:
            config["pooled_projection_dim"] = shapes[names["vector_in"]][1]
        else:
            config |= {"mlp_ratio": shapes[names["mlp"]][1] / hidden, "rope_theta": family.theta}
    if head != family.head_width:
        raise ValueError(
            f"{name} has attention heads {head} wide, {family.title}'s are {family.head_width}: choose a {family.title} file"
        )
    if family is FLUX1 and hidden != 3072 and not diffusers_layout:
        raise ValueError(
            f"{name} is {hidden} wide in the original layout, which diffusers reads at 3072 only: "
            "save it in diffusers' layout (save_pretrained) and give that"
        )
    return config


def controlnet_config(shapes: Shapes, *, name: str) -> dict[str, Any]:
    """diffusers' config of a ControlNet of FLUX.1, read from its tensors in that layout."""
    if "controlnet_x_embedder.weight" not in shapes or "x_embedder.weight" not in shapes:
        some = ", ".join(map(printable, sorted(shapes)[:3])) or "nothing"
        raise ValueError(
            f"{name} is no ControlNet of FLUX.1 in diffusers' layout (it holds {some}): give a tile or upscaling one, such as "
            "jasperai/Flux.1-dev-Controlnet-Upscaler"
        )
    config = flux_config({**shapes, "proj_out.weight": shapes["x_embedder.weight"][::-1]}, name=name, kind="ControlNet")
    config.pop("out_channels")
    with whole(name, "ControlNet"):
        modes = shapes.get("controlnet_mode_embedder.weight")
        pixels = shapes.get("input_hint_block.conv_out.weight")
        return config | {
            "_class_name": "FluxControlNetModel",
            "num_mode": None if modes is None else modes[0],
            "conditioning_embedding_channels": None if pixels is None else pixels[0],
        }


_NAMES = {  # in diffusers' layout and in the original one
    "image_in": ("x_embedder.weight", "img_in.weight"),
    "text_in": ("context_embedder.weight", "txt_in.weight"),
    "vector_in": ("time_text_embed.text_embedder.linear_1.weight", "vector_in.in_layer.weight"),
    "guidance": ("time_text_embed.guidance_embedder.linear_1.weight", "guidance_in.in_layer.weight"),
    "head": ("transformer_blocks.0.attn.norm_q.weight", "double_blocks.0.img_attn.norm.query_norm.scale"),
    "out": ("proj_out.weight", "final_layer.linear.weight"),
}
_NAMES2 = {  # where FLUX.2 differs
    "guidance": ("time_guidance_embed.guidance_embedder.linear_1.weight", "guidance_in.in_layer.weight"),
    "mlp": ("transformer_blocks.0.ff.linear_out.weight", "double_blocks.0.img_mlp.2.weight"),
}


def _names(family: ModelFamily) -> dict[str, tuple[str, str]]:
    blocks = {kind.name: (kind.diffusers, kind.comfy) for kind in family.blocks}
    return {**_NAMES, **(_NAMES2 if family is FLUX2 else {}), **blocks}


def unscaled(weights: Mapping[str, Tensor], *, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors with the scales of 8-bit floats, one per layer or per row, multiplied into them; ValueError for other scales."""
    out = {key: tensor for key, tensor in weights.items() if not key.endswith((*SCALES, *BESIDE))}
    for key in weights.keys() - out.keys():
        if not key.endswith(SCALES):
            continue
        layer, scale = f"{key.rpartition('.')[0]}.weight", weights[key].float()
        tensor = out.get(layer)
        if tensor is None or tensor.dtype not in EIGHT_BITS or scale.numel() not in (1, len(tensor)):
            raise ValueError(
                f"{name} is quantised with scales ({printable(key)}) of a kind that is not read here: give one of 8-bit floats "
                "with one scale per layer, or the bf16 file"
            )
        out[layer] = (tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))).to(dtype)
    return out


def kl_config(shapes: Shapes, *, name: str) -> dict[str, Any]:
    """diffusers' config of a FLUX-type AutoencoderKL, read from its tensors in either layout."""
    original = "encoder.down.0.block.0.conv1.weight" in shapes
    block = "encoder.down.{}.block.{}.conv1.weight" if original else "encoder.down_blocks.{}.resnets.{}.conv1.weight"
    if block.format(0, 0) not in shapes or "decoder.conv_in.weight" not in shapes:
        some = ", ".join(map(printable, sorted(shapes)[:3])) or "nothing"
        raise ValueError(
            f"{name} is no VAE that is known here (it holds {some}): "
            "use FLUX.1's ae.safetensors, FLUX.2's VAE, a 16-channel TAESD with both halves, or a diffusers folder"
        )
    widths = []
    with whole(name, "VAE"):
        while (conv := block.format(len(widths), 0)) in shapes:
            widths.append(shapes[conv][0])
        channels = shapes["decoder.conv_in.weight"][1]
    layers = 0
    while block.format(0, layers) in shapes:
        layers += 1
    return {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": channels,
        "scaling_factor": FLUX1.latent_scale,
        "shift_factor": FLUX1.latent_shift,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def without_statistics(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of FLUX.2's VAE with the names of other VAEs, and those of its batch norm, which no other has."""
    statistics = {key: tensor for key, tensor in weights.items() if key.startswith("bn.")}
    moved = {"encoder.quant_conv.": "quant_conv.", "decoder.post_quant_conv.": "post_quant_conv."}
    plain = {}
    for key, tensor in weights.items():
        if key not in statistics:
            old = next((old for old in moved if key.startswith(old)), "")
            plain[moved.get(old, "") + key.removeprefix(old)] = tensor
    return plain, statistics


def tiny_weights(weights: Mapping[str, Tensor], *, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a TAESD in diffusers' key layout, and the config of its AutoencoderTiny."""
    weights = dict(weights)
    scale, shift = 1.0, 0.0
    if "taesd_decoder.1.weight" in weights:
        # ComfyUI puts the file's own vae_scale and vae_shift around the model and then applies FLUX's: latents equal
        # the encoder's output where both are FLUX's numbers (or absent), else they differ by the quotient.
        with whole(name, "TAESD"):
            own_scale = float(weights.pop("vae_scale", torch.tensor(FLUX1.latent_scale)))
            own_shift = float(weights.pop("vae_shift", torch.tensor(FLUX1.latent_shift)))
            scale, shift = FLUX1.latent_scale / own_scale, (FLUX1.latent_shift - own_shift) * own_scale
        weights = {_tiny_key(key, name=name): tensor for key, tensor in weights.items()}
    with whole(name, "TAESD"):
        channels = weights["decoder.layers.0.weight"].shape[1]
    return weights, {"latent_channels": channels, "scaling_factor": scale, "shift_factor": shift}


def _tiny_key(key: str, *, name: str) -> str:
    """TAESD's layer numbers in diffusers: the decoder's first layer there is a clamp without weights."""
    match = re.fullmatch(r"taesd_(encoder|decoder)\.(\d+)\.(.+)", key)
    if match is None:
        raise ValueError(f"{name} holds {printable(key)}, which is no part of a TAESD: choose another file")
    half, number, rest = match.groups()
    return f"{half}.layers.{int(number) - (half == 'decoder')}.{rest}"


def _count(shapes: Shapes, prefix: str) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{prefix}.")})
