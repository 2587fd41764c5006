"""The gate behind each stage of an upscaling: what is NaN or infinite would be saved as a black picture."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Stage = Literal["dino", "enlarge", "encode", "sample", "decode"]
REMEDIES: dict[Stage, str] = {
    "dino": "use float32 (--dtype float32; in ComfyUI --force-fp32), another DINO file or another adapter",
    "enlarge": "use another upscale model",
    "encode": "use float32 (--dtype float32; in ComfyUI --fp32-vae) or another VAE",
    "sample": "use bfloat16 or float32 (--dtype float32; in ComfyUI --fp32-unet), and another FLUX, LoRA or adapter file where "
    "that does not help",
    "decode": "use float32 (--dtype float32; in ComfyUI --fp32-vae) or another VAE",
}


def finite(values: Tensor, stage: Stage) -> Tensor:
    """``values`` as they are; ValueError, which names the stage and what to try, where one of them is NaN or infinite."""
    least, most = values.aminmax()  # which hand NaN on; isfinite takes twenty times as long
    if not bool((least > -torch.inf) & (most < torch.inf)):
        raise ValueError(f"stage {stage} gave values that are NaN or infinite, and no picture: {REMEDIES[stage]}")
    return values
