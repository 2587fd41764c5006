"""Checks for inside.py: hints of ControlNets and of patches, tiny and random, of the host's own classes and nodes.

One step in tiles against the same by hand: every tile sampled alone, as a picture that was cut out with its hint and mask, and
the results averaged by the tiles' windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.cldm.cldm
import comfy.cldm.dit_embedder
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.ops
import comfy.samplers
import comfy.t2i_adapter.adapter
import torch
from comfy_extras.nodes_controlnet import ControlNetInpaintingAliMamaApply, SetUnionControlNetType
from inside_families import latent, planned
from inside_sampling import tiled
from inside_tools import CHECKS, apart, picture, same
from inside_zoo import CPU, KINDS, WIDTH, built, decoder, draw, drawn, text
from torch import Tensor

from dinotile.tiling.windows import tile_windows, window

NOT_THEIRS = ("image_model", "out_channels", "transformer_depth_output")  # of a model's sizes: those of its other half
OPERATIONS = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": CPU}
Apply = Callable[[Any, list, list, Tensor, Tensor], tuple[Any, list, list]]


@dataclass(frozen=True)
class Hint:
    """How a hint is given to a family's models. make: with such a model and its VAE, what a person's nodes do with the model, the
    positive, the negative, a picture [1, H, W, 3] and a mask [1, H, W]. sizes: of the model, others than the zoo's."""

    family: str
    make: Callable[[Any, Any], Apply]
    sizes: Mapping[str, Any] = field(default_factory=dict)


def local_vae(model: Any) -> Any:
    """A VAE of a model's latents of which each cell sees one of its own px, so that a part's latents are the latents' part."""
    vae = decoder(model)
    for weight in vae.first_stage_model.parameters():
        if weight.ndim == 4 and weight.shape[-1] == 3:
            middle = weight.data[..., 1, 1].clone()
            weight.data.zero_()
            weight.data[..., 1, 1] = middle * 3  # as strong as the nine
    return vae


def step(model: Any, latents: Tensor, noise: Tensor, conds: tuple[list, list]) -> Tensor:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*conds)
    guider.set_cfg(2.0)
    sigmas = torch.tensor([0.8, 0.0])
    return guider.sample(noise, latents, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=5)


def by_hand(kind: Hint) -> dict:
    model = built(kind.family, **kind.sizes)
    of, latents = planned(model), latent(model)
    noise, apply = drawn(*latents.shape, seed=2), kind.make(model, local_vae(model))
    hint = picture(7, height=of.height, width=of.width)
    mask = (picture(8, height=of.height, width=of.width)[..., 0] > 0.5).float()
    size = {"width": of.tile_width, "height": of.tile_height}  # which SDXL is told

    def words() -> list[list]:
        return [[[c, {**size, **d}] for c, d in text(kind.family, seed)] for seed in (0, 1)]

    chosen, *conds = apply(model, *words(), hint, mask)
    in_tiles = step(tiled(chosen, of), latents, noise, conds)
    fused, weights = torch.zeros_like(latents), torch.zeros_like(latents)
    for box, cells, pair in zip(of.boxes, of.latent.boxes, tile_windows(of.latent), strict=True):
        pixels = (slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
        place = (..., slice(cells.top, cells.bottom), slice(cells.left, cells.right))
        alone, *own = apply(model, *words(), hint[pixels], mask[pixels])
        fused[place] += step(alone, latents[place], noise[place], own) * window(pair)
        weights[place] += window(pair)
    whole, one = (step(each, latents, noise, conds) for each in (chosen, tiled(chosen, planned(model, tile=99))))
    return {
        "apart": apart(in_tiles, fused / weights),
        "acts": apart(in_tiles, step(tiled(model, of), latents, noise, words())),
        "one tile": same(one, whole),
    }


def sizes_of(family: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return {name: size for name, size in (KINDS[family].unet | more).items() if name not in NOT_THEIRS}


def net_of(family: str, cls: Callable[..., torch.nn.Module], sizes: Mapping[str, Any], **more: Any) -> torch.nn.Module:
    net = cls(**sizes_of(family, sizes), **more, **OPERATIONS)
    draw(net, still=False)
    return net.requires_grad_(False)


def applied(control: Any, vae: Any = None, *, union: str | None = None) -> Apply:
    """By the host's nodes, with the mask where the ControlNet has one."""
    if union is not None:
        (control,) = SetUnionControlNetType.execute(control, union).args

    def apply(model: Any, positive: list, negative: list, image: Tensor, mask: Tensor) -> tuple[Any, list, list]:
        conds = ControlNetInpaintingAliMamaApply.execute(
            positive, negative, control, vae, image, mask, 0.8, 0.0, 1.0
        ).args
        return model, *conds

    return apply


def on_latents(kind: Any, latents: Any, net: torch.nn.Module, **more: Any) -> Any:
    return kind(net, compression_ratio=1, latent_format=latents, load_device=CPU, **more)


TWICE = {"num_res_blocks": [2, 2, 2, 2], "transformer_depth": [0] * 8, "transformer_depth_output": [0] * 12}
TWO_BLOCKS = {  # as SD 3's last block gets nothing
    "depth": 2,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 128}},
}


def sdxl_lora(model: Any, vae: Any) -> Apply:
    """Of which the host makes a network, from the model, when the run starts."""
    net = net_of("SDXL", comfy.cldm.cldm.ControlNet, {}, hint_channels=3)
    own = ("input_hint_block", "zero_convs", "middle_block_out")
    weights = {name: weight for name, weight in net.state_dict().items() if name.startswith(own)}
    out, inner = net.state_dict()["middle_block.0.in_layers.2.weight"].shape[:2]
    weights["middle_block.0.in_layers.2.up"] = drawn(out, 2, seed=4)
    weights["middle_block.0.in_layers.2.down"] = drawn(2, inner, 3, 3, seed=5) * 0.1
    return applied(comfy.controlnet.ControlLora(weights))


def t2i(model: Any, vae: Any) -> Apply:
    net = comfy.t2i_adapter.adapter.Adapter_light(cin=192, channels=[32] * 4, nums_rb=1)
    draw(net, still=False)
    net.requires_grad_(False)
    return applied(comfy.controlnet.T2IAdapter(net, net.input_channels, 8, "nearest-exact", CPU))


def sd35(model: Any, vae: Any) -> Apply:
    net = comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=1, attention_head_dim=64, num_attention_heads=2,
        adm_in_channels=48, main_model_double=2, double_y_emb=False, **OPERATIONS,
    )  # fmt: skip
    draw(net, still=False)
    kind = partial(comfy.controlnet.ControlNetSD35, preprocess_image=lambda pixels: 1.0 - pixels)
    return applied(on_latents(kind, comfy.latent_formats.SD3(), net.requires_grad_(False)), vae)


def qwen_union(model: Any, vae: Any) -> Apply:
    net = net_of("Qwen-Image", comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel, {}, extra_condition_channels=4)
    kind, latents = comfy.controlnet.ControlNet, comfy.latent_formats.Wan21()
    return applied(on_latents(kind, latents, net, concat_mask=True, extra_conds=[]), vae, union="depth")


def qwen_fun(model: Any, vae: Any) -> Apply:
    net = comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(
        inner_dim=64, num_attention_heads=2, attention_head_dim=32, num_control_blocks=1, main_model_double=1,
        injection_layers=(0,), **OPERATIONS,
    )  # fmt: skip
    draw(net, still=False)
    kind = comfy.controlnet.QwenFunControlNet
    return applied(on_latents(kind, comfy.latent_formats.Wan21(), net.requires_grad_(False), extra_conds=[]), vae)


def flux_union(model: Any, vae: Any) -> Apply:
    net = comfy.ldm.flux.controlnet.ControlNetFlux(
        **KINDS["FLUX.1"].unet, latent_input=True, num_union_modes=10, control_latent_channels=17, **OPERATIONS
    )
    draw(net, still=False)
    more = {"concat_mask": True, "extra_conds": ["y", "guidance"]}
    kind, latents = comfy.controlnet.ControlNet, comfy.latent_formats.Flux()
    return applied(on_latents(kind, latents, net.requires_grad_(False), **more), vae, union="depth")


HINTS = {
    "SDXL, ControlLoRA": Hint("SDXL", sdxl_lora),
    "SD 1.5, T2I adapter": Hint("SD 1.5", t2i, TWICE),
    "SD 3.5": Hint("SD 3", sd35, TWO_BLOCKS),
    "Qwen-Image, a type of a union, inpainting": Hint("Qwen-Image", qwen_union),
    "Qwen-Image Fun": Hint("Qwen-Image", qwen_fun),
    "FLUX.1, a type of a union, inpainting": Hint("FLUX.1", flux_union),
}
for name, hint in HINTS.items():
    CHECKS[f"by hand {name}"] = partial(by_hand, hint)
