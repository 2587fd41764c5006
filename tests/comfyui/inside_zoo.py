"""Tiny random models of the host's own classes, of the families that people upscale with, and what each is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models as kinds
import torch
from comfy.taesd.taehv import TAEHV
from comfy.taesd.taesd import TAESD
from torch import Tensor

from dinotile.hosts.comfy.latents import latents_of

CPU = torch.device("cpu")
WORDS, WIDTH = 6, 32  # of texts
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_heads": 4, "use_spatial_transformer": True,
    "legacy": False, "context_dim": WIDTH,
}  # fmt: skip
FLUX = {"context_in_dim": WIDTH, "hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1}


@dataclass(frozen=True)
class Kind:
    """One family. detected: from its tensors, by the host itself. said: in a conditioning beside the text of that width."""

    config: Any
    unet: dict[str, Any]
    said: Callable[[int], dict[str, Any]] = lambda seed: {}
    width: int = WIDTH
    detected: bool = False


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pooled(width: int) -> Callable[[int], dict[str, Any]]:
    return lambda seed: {"pooled_output": drawn(1, width, seed=seed + 50), "guidance": 3.5}


def padded(seed: int) -> dict[str, Any]:
    """Of a text whose last words are padding."""
    return {"attention_mask": (torch.arange(WORDS) < WORDS - 2).long()[None]}


KINDS = {
    "FLUX.1": Kind(
        kinds.FluxSchnell,
        FLUX
        | {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 48, "mlp_ratio": 4.0, "theta": 10000}
        | {"axes_dim": [16, 56, 56], "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": []},
        pooled(48),
        detected=True,
    ),
    "FLUX.2": Kind(
        kinds.Flux2,
        FLUX
        | {"image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0, "theta": 2000}
        | {"axes_dim": [32, 32, 32, 32], "patch_size": 1, "qkv_bias": False, "guidance_embed": False, "txt_ids_dims": [3]}
        | {"global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "default_ref_method": "index"},
        detected=True,
    ),
    "Chroma": Kind(
        kinds.Chroma,
        FLUX
        | {"image_model": "chroma", "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "mlp_ratio": 4.0, "theta": 10000}
        | {"axes_dim": [16, 56, 56], "patch_size": 2, "qkv_bias": True, "in_dim": 64, "out_dim": 128, "hidden_dim": 64}
        | {"n_layers": 1, "txt_ids_dims": []},
        lambda seed: {"guidance": 0.0},
    ),
    "Z-Image": Kind(
        kinds.ZImage,
        {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 256, "cap_feat_dim": WIDTH, "n_layers": 1}
        | {"n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "rope_theta": 256.0, "qk_norm": True}
        | {"z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32, "multiple_of": 32},
    ),
    "Lumina 2": Kind(
        kinds.Lumina2,
        {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 64, "cap_feat_dim": WIDTH, "n_layers": 1}
        | {"n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 1, "axes_dims": [8, 12, 12], "qk_norm": True, "multiple_of": 32},
        padded,
    ),
    "Qwen-Image": Kind(
        kinds.QwenImage,
        {"image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2}
        | {"joint_attention_dim": WIDTH, "axes_dims_rope": (8, 12, 12)},
        padded,
    ),
    "Krea 2": Kind(
        kinds.Krea2,
        {"image_model": "krea2", "features": 128, "channels": 16, "patch": 2, "layers": 1, "heads": 1, "kvheads": 1}
        | {"txtlayers": 2, "txtdim": 320},
        width=640,
        detected=True,
    ),
    "SD 3": Kind(
        kinds.SD3,
        {"in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 1, "input_size": None, "adm_in_channels": 48}
        | {"context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 64}}}
        | {"num_patches": 256, "pos_embed_max_size": 16, "pos_embed_scaling_factor": None},
        pooled(48),
        detected=True,
    ),
    "SDXL": Kind(
        kinds.SDXL,
        UNET
        | {"num_res_blocks": [1, 1, 1], "channel_mult": [1, 2, 2], "transformer_depth": [0, 0, 1], "adm_in_channels": 2816}
        | {"transformer_depth_output": [0, 0, 0, 0, 1, 1], "transformer_depth_middle": 1, "num_classes": "sequential"},
        pooled(1280),
    ),
    "SD 1.5": Kind(
        kinds.SD15,
        UNET
        | {"num_res_blocks": [1, 1, 1, 1], "channel_mult": [1, 1, 1, 1], "transformer_depth": [0, 0, 1, 0]}
        | {"transformer_depth_output": [0, 0, 0, 0, 1, 1, 0, 0], "transformer_depth_middle": 1},
    ),
    "HiDream": Kind(
        kinds.HiDream,
        {"image_model": "hidream", "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1}
        | {"num_single_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": [WIDTH, WIDTH]}
        | {"text_emb_dim": 48, "axes_dims_rope": (8, 12, 12), "llama_layers": [0, 1]},
        lambda seed: pooled(48)(seed) | {"conditioning_llama3": drawn(1, 2, WORDS, WIDTH, seed=seed + 70)},
    ),
    "OmniGen 2": Kind(
        kinds.Omnigen2,
        {"image_model": "omnigen2", "patch_size": 2, "in_channels": 16, "hidden_size": 64, "num_layers": 1}
        | {"num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 32, "text_feat_dim": WIDTH}
        | {"axes_dim_rope": (8, 12, 12), "axes_lens": (300, 512, 512), "timestep_scale": 1000.0},
        lambda seed: {"attention_mask": torch.ones(1, WORDS, dtype=torch.long)},
    ),
}  # fmt: skip

WAN = {"patch_size": (1, 2, 2), "text_len": 512, "in_dim": 16, "out_dim": 16, "dim": 96, "ffn_dim": 64, "freq_dim": 32}
WAN |= {"image_model": "wan2.1", "text_dim": WIDTH, "num_heads": 2, "num_layers": 1, "window_size": (-1, -1)}
RARE = {  # of which only hints are tried
    "Cosmos Predict 2": Kind(  # of which Anima is one
        kinds.CosmosT2IPredict2,
        {"image_model": "cosmos_predict2", "in_channels": 16, "out_channels": 16, "max_img_h": 240, "max_img_w": 240}
        | {"max_frames": 128, "patch_spatial": 2, "patch_temporal": 1, "model_channels": 96, "num_blocks": 1, "num_heads": 2}
        | {"crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 8},
    ),
    "Wan 2.1": Kind(kinds.WAN21_T2V, WAN | {"model_type": "t2v"}),
    "Wan 2.1 VACE": Kind(kinds.WAN21_Vace, WAN | {"model_type": "vace", "vace_layers": 1, "vace_in_dim": 96}),
    "PiD": Kind(
        kinds.PiD,
        {"image_model": "pid", "num_groups": 2, "hidden_size": 64, "pixel_hidden_size": 8, "pixel_attn_hidden_size": 32}
        | {"pixel_num_groups": 2, "patch_depth": 1, "pixel_depth": 1, "txt_embed_dim": WIDTH, "txt_max_length": WORDS}
        | {"lq_hidden_dim": 16, "lq_num_res_blocks": 1},
        lambda seed: {"lq_latent": drawn(1, 16, 2, 3, seed=seed), "degrade_sigma": torch.tensor([0.1])},
    ),
    "HiDream-O1": Kind(
        kinds.HiDreamO1,
        {"image_model": "hidream_o1"}
        | {"text_config_overrides": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
        | {"num_key_value_heads": 1}}
        | {"vision_config_overrides": {"hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "depth": 1}
        | {"num_position_embeddings": 16, "deepstack_visual_indexes": (0,)}},
        lambda seed: {"text_input_ids": torch.arange(8)[None] + seed},
    ),
}  # fmt: skip


def kind_of(name: str) -> Kind:
    return (KINDS | RARE)[name]


def built(name: str, *, still: bool = False, **sizes):
    """A MODEL of a family with random weights; still: with zeros, so that it predicts nothing. sizes: others than its own."""
    kind = kind_of(name)
    config = kind.config(kind.unet | sizes)
    config.set_inference_dtype(torch.float32, None)
    config.custom_operations = comfy.ops.disable_weight_init
    config.memory_usage_factor = 1.0  # HiDream's has none of its own
    model = config.get_model({}, "")
    draw(model.diffusion_model, still=still)
    if not kind.detected:
        return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)
    weights = {key: weight.clone() for key, weight in model.diffusion_model.state_dict().items()}
    return comfy.sd.load_diffusion_model_state_dict(weights, {"dtype": torch.float32})


def draw(module: torch.nn.Module, *, still: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, weight in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(weight, torch.nn.Parameter) or name == "pos_embed":
            found = torch.randn(weight.shape, generator=generator) * (
                weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
            )
            one = weight.ndim == 1 and name.endswith(("weight", "scale"))
            weight.data = torch.zeros_like(weight) if still else found + one


def text(name: str, seed: int = 0) -> list:
    kind = kind_of(name)
    return [[drawn(1, WORDS, kind.width, seed=seed + 30), kind.said(seed)]]


def decoder(model):
    """A small VAE of a model's latents with random weights, as the host loads one from a file."""
    of = latents_of(model)
    made = TAEHV(of.channels) if of.framed else TAESD(latent_channels=of.channels)
    draw(made, still=False)
    metadata = {"tae_latent_channels": of.channels}
    return comfy.sd.VAE(sd={name: weight.clone() for name, weight in made.state_dict().items()}, metadata=metadata)
