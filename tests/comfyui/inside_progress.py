"""Checks for inside.py: what the host's bar is told while the one node works."""

from __future__ import annotations

import comfy.utils
from inside_memory import demo_vae, upscaled
from inside_tools import adapter, check, dino

RUNS = {
    "plain": {},
    "moving, batches": {"moving": True},
    "all of it": {"retry": 1.0, "adaptive": 0.5, "vae_detail": 1.0, "anchor": 0.5, "color_match": "wavelet"},
}


@check
def progress_of_the_one_node():
    found, vae = {}, demo_vae()
    for name, more in RUNS.items():
        seeing = {"dino": dino(), "adapter": adapter()} if "retry" in more else {}
        told: list[tuple[int, int]] = []
        comfy.utils.set_progress_bar_global_hook(lambda *said, told=told, **names: told.append(said[:2]))
        try:
            upscaled(vae, height=128, width=160, steps=2, **more, **seeing)
        finally:
            comfy.utils.set_progress_bar_global_hook(None)
        values, totals = ([of[at] for of in told] for at in (0, 1))
        found[name] = {"last": told[-1], "rising": values == sorted(values), "totals": sorted(set(totals))}
    return found
