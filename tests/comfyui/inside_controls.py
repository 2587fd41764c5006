"""Checks for inside.py: ordinary ControlNets of other families than FLUX.1, tiny and random, of the host's own classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import comfy.cldm.cldm
import comfy.cldm.mmdit
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.qwen_image.controlnet
import comfy.ops
import torch
from inside_families import latent, planned, sample
from inside_tools import CHECKS, apart, one_by_one, picture, same, tiled, watch
from inside_zoo import CPU, KINDS, WIDTH, built, decoder, draw

NOT_THEIRS = ("image_model", "out_channels", "transformer_depth_output")  # of a model's sizes: those of its other half


TWO_BLOCKS = {  # as SD 3's last block gets nothing
    "depth": 2,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 128}},
}


def sd3_latents() -> Any:
    """As the host has them for ControlNets."""
    made = comfy.latent_formats.SD3()
    made.shift_factor = 0
    return made


@dataclass(frozen=True)
class Control:
    """One family's ControlNet. latents: what its hints are encoded to, None for pixels. sizes: of the model, others than the
    zoo's."""

    net: Callable[..., torch.nn.Module]
    latents: Callable[[], Any] | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)


CONTROLS = {
    "SDXL": Control(partial(comfy.cldm.cldm.ControlNet, hint_channels=3)),
    "SD 1.5": Control(partial(comfy.cldm.cldm.ControlNet, hint_channels=3)),
    "SD 3": Control(
        partial(comfy.cldm.mmdit.ControlNet, num_blocks=1, control_latent_channels=16), sd3_latents, TWO_BLOCKS
    ),
    "Qwen-Image": Control(comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel, comfy.latent_formats.Wan21),
}


def control_of(name: str, vae: Any, hint: torch.Tensor) -> Any:
    """The host's ControlNet with a hint [1, 3, H, W]."""
    kind = CONTROLS[name]
    sizes = {key: value for key, value in (KINDS[name].unet | kind.sizes).items() if key not in NOT_THEIRS}
    net = kind.net(**sizes, operations=comfy.ops.disable_weight_init, dtype=torch.float32, device=CPU)
    draw(net, still=False)
    of_latents = {} if kind.latents is None else {"compression_ratio": 1, "latent_format": kind.latents()}
    made = comfy.controlnet.ControlNet(net.requires_grad_(False), load_device=CPU, **of_latents)
    return made.set_cond_hint(hint, 0.8, vae=None if kind.latents is None else vae)


def controlled(name: str) -> dict:
    """How far each tile's hint is from its part of the whole one, and one tile against none."""
    model = built(name, **CONTROLS[name].sizes)
    vae, of = decoder(model), planned(model)
    hint = picture(7, height=of.height, width=of.width).movedim(-1, 1)
    control = control_of(name, vae, hint)
    given, boxes = [], []

    def see(module, args, kwargs):
        given.append(kwargs["hint"][:1])

    def look(call):
        boxes.append(call.options["dinotile"]["tiles"][0]["box"])

    def part(left: int, top: int, right: int, bottom: int) -> torch.Tensor:
        pixels = hint[..., top:bottom, left:right]
        if control.latent_format is None:
            return pixels
        return control.latent_format.process_in(vae.encode(pixels.movedim(1, -1)))

    latents, options = latent(model), {"cfg": 1.0, "steps": 1}
    with_control = {**options, "more": {"control": control, "control_apply_to_uncond": True}}
    handle = control.control_model.register_forward_pre_hook(see, with_kwargs=True)
    in_tiles = sample(one_by_one(watch(tiled(model, of), look)), name, latents, **with_control)
    handle.remove()
    return {
        "tiles": [of.count, len(given), len(boxes)],
        "worst": max(apart(seen, part(*box)) for seen, box in zip(given, boxes, strict=True)),
        "acts": apart(in_tiles, sample(tiled(model, of), name, latents, **options)),
        "one tile": same(
            sample(tiled(model, planned(model, tile=99)), name, latents, **with_control),
            sample(model, name, latents, **with_control),
        ),
    }


for kind in CONTROLS:
    CHECKS[f"controlled {kind}"] = partial(controlled, kind)
