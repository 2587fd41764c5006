"""Checks for inside_training.py: runs that are interrupted and go on, and what a bar tells."""

from __future__ import annotations

import shutil
from functools import partial

import comfy.model_management as management
import comfy.utils
from inside_sampling import plan, text
from inside_tools import BASE, adapter, apart, check, dino, flux, folder, node, picture, saved
from training_tools import caught, counted, train, vae, weights

from dinotile import nodes
from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.training.core.state import checkpoints


def runs() -> list:
    """The folders of unfinished trainings."""
    return sorted((BASE / "output" / "dinotile" / "training").glob("*"))


@check
def resumed():
    """A run that is interrupted at step 5 of 9, asked for again with other inputs and with the same ones."""
    for place in runs():
        shutil.rmtree(place)
    settings = {"steps": 9, "dino_guidance": 2.0, "remember": 0}
    whole, _ = train("whole", **settings)
    after_whole = runs()
    said, _ = counted(partial(caught, "parts", **settings), stop=5)
    (place,) = runs()
    kept = [found.name for found in checkpoints(place)]
    more = folder("more", [(64, 64), (64, 80), (72, 64), (64, 64), (80, 64), (64, 64), (64, 64)])
    other = {
        "seed": {"seed": 2},
        "learning rate": {"learning_rate": 1e-3},
        "pictures": {"folder": more},
        "FLUX": {"model": flux("flux-dev")},
        "adapter": {"adapter": adapter()},
    }
    begun = {name: counted(partial(caught, name, **settings | changed), stop=1)[1] for name, changed in other.items()}
    beside = len(runs())
    parts, told = counted(lambda: train("parts again", **settings)[0])
    return {
        "said": said,
        "folders after a whole run": len(after_whole),
        "kept": kept,
        "others begin at": {name: steps[0] for name, steps in begun.items()},
        "folders beside": beside,
        "told": told,
        "apart": max(apart(t, weights(whole)[n]) for n, t in weights(parts).items() if t.any()),
        "left": place in runs(),
        "steps": [load_adapter(path).config.provenance["steps"] for path in saved("parts") + saved("parts again")],
    }


@check
def progress():
    """What the one node tells of its work, with tiles one by one; and with a sampler of two evaluations in a step."""
    out = {"tiles": plan(64, 16, 128, 160).count}
    for sampler in ("euler", "heun"):
        shown = out[sampler] = []
        comfy.utils.set_progress_bar_global_hook(lambda *told, seen=shown, **names: seen.append(told[:2]))
        settings = (2.0, 0.5, 3, sampler, "simple", 1.0, 64, 16, 1.0, 0)
        patcher = type(flux())
        changed = {
            (patcher, "get_free_memory"): lambda self, device: 0,  # of all clones too
            (comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL"): 0,
            (comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT"): 0,
        }
        before = {place: getattr(*place) for place in changed}
        try:
            for place, value in changed.items():
                setattr(*place, value)
            small = picture(height=64, width=80)
            node(nodes.Upscale, small, flux(), vae(), text(0), text(1), *settings, dino(), adapter())
        finally:
            comfy.utils.set_progress_bar_global_hook(None)
            for place, value in before.items():
                setattr(*place, value)
    return out


@check
def interrupted():
    """The user's interrupt at step 3 of 40, before the first step, and while a picture is encoded."""
    said, _ = counted(partial(caught, "stopped", steps=40), stop=3)
    management.interrupt_current_processing()
    early = caught("early", steps=2)
    in_training, flag = management.in_training, management.processing_interrupted()
    three, _ = train("three", steps=40)
    after = load_adapter(saved("stopped")[0])
    begun = node(nodes.LoadAdapter, f"made/{saved('stopped')[0].name}")
    return {
        "said": said,
        "files": len(saved("stopped")),
        "steps": after.config.provenance["steps"],
        "trained": after.trained,
        "said before the first step": early,
        "files before the first step": len(saved("early")),
        "in_training": in_training,
        "flag is left": flag,
        "next run": three.adapter.config.provenance["steps"],
        "goes on": train("on", steps=1, adapter=begun)[0].adapter.config.provenance["steps"],
    }
