"""Checks for inside.py: tiles that are tried again."""

from __future__ import annotations

import comfy.sd
import comfy.utils
from inside_sampling import text, upscale, watch
from inside_tools import BASE, apart, check, dino, flux, node, picture, refusal, same

from dinotile import nodes


@check
def second_try():
    """At retry 1 all tiles fail that are less true to the source than plain enlargement."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    levels: list[float] = []
    watched = watch(flux(), lambda call: levels.append(round(float(call.t[0]), 6)))
    usual = upscale(vae=vae, dino=dino(), model=watched)
    first = list(dict.fromkeys(levels))
    levels.clear()
    again = upscale(vae=vae, dino=dino(), model=watched, retry=1.0)
    second = list(dict.fromkeys(levels))
    settings = 1.0, 0.5, 1, "euler", "simple", 1.0, 64, 16, 1.0, 0
    alone = node(
        nodes.Upscale, picture(height=64, width=80), watched, vae, text(0), text(1), *settings, dino=dino(), retry=1.0
    )
    return {
        "DINO alone, finite": bool(alone.isfinite().all()),
        "noise levels": [first, second],
        "differs by": apart(again, usual),
        "finite": bool(again.isfinite().all()),
        "retry 0 is equal": same(upscale(vae=vae, dino=dino(), model=watched, retry=0.0), usual),
        "without DINO": refusal(lambda: upscale(vae=vae, retry=0.5)),
    }
