"""Checks for inside.py: models and nodes that few have, by hand as in inside_controls.py, and a SUPIR on a padded canvas."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.cascade.controlnet
import comfy.ldm.hydit.controlnet
import comfy.supported_models as kinds
import comfy.t2i_adapter.adapter
import torch
from comfy_extras.nodes_sd3 import SkipLayerGuidanceSD3
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple
from inside_controls import OPERATIONS, TWO_BLOCKS, Apply, Hint, applied, by_hand, on_latents
from inside_estimates import demo_vae
from inside_families import latent, planned, small
from inside_families import sample as sample_family
from inside_hint_patches import DEEPER, supir
from inside_sampling import patched, project, sample, text, tiled
from inside_tools import CHECKS, adapter, apart, check, features, node, picture, same
from inside_zoo import CPU, RARE, WIDTH, WORDS, Kind, built, decoder, draw, drawn, pooled
from inside_zoo import text as words_of
from torch import Tensor

from dinotile import nodes
from dinotile.hosts.comfy.latents import latents_of
from dinotile.hosts.comfy.patch_kinds import owner

HUNYUAN = {
    "image_model": "hydit",
    "in_channels": 4,
    "patch_size": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "mlp_ratio": 1.0,
}
HUNYUAN |= {
    "text_states_dim": WIDTH,
    "text_states_dim_t5": 64,
    "text_len": WORDS,
    "text_len_t5": WORDS,
    "input_size": 32,
}


def masked(seed: int) -> dict[str, Any]:
    """A text of two encoders, each with padding."""
    mask = (torch.arange(WORDS) < WORDS - 2).long()[None]
    return {
        "attention_mask": mask,
        "conditioning_mt5xl": drawn(1, WORDS, 64, seed=seed + 60),
        "attention_mask_mt5xl": mask,
    }


RARE["HunyuanDiT"] = Kind(
    kinds.HunyuanDiT, HUNYUAN | {"depth": 40, "size_cond": True}, masked
)  # 40: the net has half of it
RARE["Stable Cascade C"] = Kind(
    kinds.Stable_Cascade_C,
    {"stable_cascade_stage": "c", "c_cond": 64, "c_hidden": [64], "nhead": [2], "blocks": [[1], [1]], "c_r": 16}
    | {"block_repeat": [[1], [1]], "level_config": ["CTA"], "c_clip_text": WIDTH, "c_clip_text_pooled": 48},
    pooled(48),
)  # fmt: skip


def hunyuan(model: Any, vae: Any) -> Apply:
    net = comfy.ldm.hydit.controlnet.HunYuanControlNet(**HUNYUAN, **OPERATIONS)
    draw(net, still=False)
    extra = ["text_embedding_mask", "encoder_hidden_states_t5", "text_embedding_mask_t5", "image_meta_size", "style"]
    kind, latents = comfy.controlnet.ControlNet, comfy.latent_formats.SDXL()
    return applied(on_latents(kind, latents, net.requires_grad_(False), extra_conds=extra), vae)


def cascade(model: Any, vae: Any) -> Apply:
    net = comfy.ldm.cascade.controlnet.ControlNet(c_proj=64, proj_blocks=[0, 1], bottleneck_mode="simple")
    draw(net, still=False)
    net.eval().requires_grad_(False)
    return applied(comfy.controlnet.T2IAdapter(net, net.input_channels, 32, "bilinear", CPU))


def skipped(node: Any, *given: Any, **named: Any) -> Any:
    def make(model: Any, vae: Any) -> Apply:
        def apply(model: Any, positive: list, negative: list, image: Tensor, mask: Tensor) -> tuple[Any, list, list]:
            return node.execute(model, *given, **named).args[0], positive, negative

        return apply

    return make


HINTS = {
    "HunyuanDiT": Hint("HunyuanDiT", hunyuan),
    "Stable Cascade C": Hint("Stable Cascade C", cascade),
    "SD 3, Skip Layer Guidance": Hint("SD 3", skipped(SkipLayerGuidanceSD3, "1", 3.0, 0.0, 1.0), TWO_BLOCKS),
    "FLUX.1, Skip Layer Guidance": Hint(
        "FLUX.1", skipped(SkipLayerGuidanceDiT, 3.0, 0.0, 1.0, double_layers="0", single_layers="0")
    ),
    "FLUX.1, Skip Layer Guidance, simple": Hint(
        "FLUX.1", skipped(SkipLayerGuidanceDiTSimple, 0.0, 1.0, double_layers="0", single_layers="")
    ),
}
for name, hint in HINTS.items():
    CHECKS[f"by hand {name}"] = partial(by_hand, hint)


@check
def skipped_layers_with_dino():
    """Skip Layer Guidance on tiles with DINO, against what its formula makes of their estimates with the layer and without; and
    with an anchor in either order."""
    positive, negative = project(adapter(), features())
    levels = {"sigmas": torch.tensor([0.8, 0.0])}
    scale, model = 3.0, patched(adapter())
    without = model.clone()
    without.set_model_patch_replace(lambda given, extra: given, "dit", "double_block", 0)

    def guided(model: Any) -> Any:
        return SkipLayerGuidanceDiT.execute(model, scale, 0.0, 1.0, double_layers="0").args[0]

    def anchored(model: Any) -> Any:
        return node(nodes.SourceAnchor, model, picture(), demo_vae(), 0.5, 1.0, 0.0, 1)

    def estimate(model: Any) -> Tensor:
        return sample(tiled(model), positive, negative, **levels)

    found, full, short = (estimate(each) for each in (guided(model), model, without))
    before, after = estimate(anchored(guided(model))), estimate(guided(anchored(model)))
    return {
        "formula": apart(found, full + scale * (full - short)),
        "acts": apart(found, full),
        "DINO acts": apart(found, sample(tiled(guided(model)), text(0), text(1), **levels)),
        "anchored, either order": same(before, after),
        "anchor acts": apart(before, found),
    }


@check
def padded_canvas():
    """A SUPIR whose picture ends before the canvas, against one whose latents were padded by hand, and so of the canvas's size:
    its function after CFG sees the picture's part, and the rest is as without that function."""
    model = built("SDXL", **DEEPER)
    cells = latent(model).shape[-2:]
    given = picture(3, height=8 * cells[0] - 24, width=8 * cells[1] - 16)
    plain, compared = (supir(model, decoder(model), restore=of) for of in (0.0, 4.0))
    short, whole, restored = (apply(model, [], [], given, None)[0] for apply in (plain, plain, compared))
    patches = whole.model_options["transformer_options"]["patches"].values()
    (shown,) = {owner(patch) for listed in patches for patch in listed}
    shown.hint_latent = torch.nn.functional.pad(shown.hint_latent, (0, 2, 0, 3), mode="replicate")

    def run(model: Any, tile: int) -> Tensor:
        return sample_family(tiled(model, planned(model, tile=tile)), "SDXL", latent(model), steps=1)

    alone = run(short, 99)
    differs = run(restored, 99) != alone
    inside = differs[..., : cells[0] - 3, : cells[1] - 2].sum()
    image = small(model)[:, 1:, 2:]
    large = picture(3, height=2 * image.shape[1], width=2 * image.shape[2])
    made, *_ = compared(model, [], [], large, None)
    words, grid = words_of("SDXL"), latents_of(model).token
    result = node(
        nodes.Upscale, image, made, decoder(model), words, words, 2.0, 0.5, 1, "euler", "simple", 1.0, 3 * grid, grid, 1.0, 0
    )  # fmt: skip
    return {
        "in tiles": apart(run(short, 3), run(whole, 3)),
        "in one": apart(alone, run(whole, 99)),
        "restored": int(inside),
        "restored beyond the picture": int(differs.sum() - inside),
        "one node": bool(result.isfinite().all()) and list(result.shape[1:3]) == list(large.shape[1:3]),
    }
