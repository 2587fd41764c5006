"""Checks for inside.py: tiles and adapters on models whose weights have 8 bits, as the host loads them."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_patcher
import comfy.sd
import torch
from inside_sampling import last_call, one_by_one, patched, project, sample, text, tiled, watch
from inside_tools import CHECKS, OWN_SIZES, adapter, apart, features, flux, same, using
from inside_zoo import CPU
from inside_zoo import KINDS as ZOO

BITS = torch.float8_e4m3fn


def scaled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As files with scales have them: matrices of blocks in 8 bits, each with what to multiply it by."""
    out = {"scaled_fp8": torch.zeros(0, dtype=BITS)}
    for name, weight in weights.items():
        if weight.ndim == 2 and name.endswith(".weight") and "blocks" in name and "norm" not in name:
            scale = weight.abs().max() / torch.finfo(BITS).max
            out[name], out[f"{name.removesuffix('weight')}scale_weight"] = (weight / scale).to(BITS), scale.float()
        else:
            out[name] = weight
    return out


def narrowed(kind: str) -> Any:
    """The family's tiny model with its own weights in 8 bits: Chroma as *weight_dtype* of the loader does it, the others of a
    file with scales."""
    weights = {key: weight.clone() for key, weight in flux().model.diffusion_model.state_dict().items()}
    if kind != "chroma":
        return comfy.sd.load_diffusion_model_state_dict(scaled(weights))
    config = ZOO["Chroma"].config(ZOO["Chroma"].unet | OWN_SIZES["Chroma"])  # the host takes other sizes for Chroma's
    config.set_inference_dtype(BITS, torch.float32)
    model = config.get_model({}, "")
    model.diffusion_model.load_state_dict(weights)
    return comfy.model_patcher.CoreModelPatcher(model, load_device=CPU, offload_device=CPU)


def in_8_bits(kind: str) -> dict:
    with using(kind):
        model, found, computed = narrowed(kind), features(), set()
        wrapped = patched(adapter(), model)
        on = sample(
            tiled(watch(wrapped, lambda call: computed.add(str(last_call().regions.keys.dtype)))),
            *project(adapter(), found),
        )
        plain = sample(tiled(model), text(0))
        weights = list(model.model.diffusion_model.parameters())
        return {
            "weights": sorted({f"{type(weight.data).__name__}, {weight.dtype}" for weight in weights}),
            "DINO is computed in": sorted(computed),
            "strength 0 is plain": same(sample(tiled(wrapped), *project(adapter(), found, 0.0)), plain),
            "on differs by": apart(on, plain),
            "one by one differs by": apart(sample(one_by_one(tiled(model)), text(0)), plain),
        }


for kind in ("flux2", "chroma", "krea2"):
    CHECKS[f"fp8 {kind}"] = partial(in_8_bits, kind)
