"""Checks for inside.py: tiles that lie elsewhere at every step."""

from __future__ import annotations

import comfy.controlnet
import node_helpers
import torch
from inside_controlnets import control_model
from inside_sampling import patched, plan, project, random_latent, sample, text, tiled, watch, where
from inside_tools import HEIGHT, WIDTH, adapter, apart, check, features, flux

from dinotile.hosts.comfy.control import HintCrop
from dinotile.tiling.moving import moved

SAMPLERS = ("euler", "heun", "dpm_2")


@check
def moving():
    """Which tiles each evaluation of the model had, by its noise level."""
    positive, negative = project(adapter(), features())
    out = {}
    for sampler in SAMPLERS:
        found: dict[tuple[float, int], list] = {}

        def see(call, found=found):
            rows = call.options["dinotile"]["tiles"]
            for slot, row in zip(call.options["cond_or_uncond"], rows, strict=True):
                found.setdefault((round(float(call.t[0]), 6), slot), []).append(row["box"])

        model = watch(tiled(patched(adapter()), moving=True), see)
        result = sample(model, positive, negative, cfg=2.0, steps=3, sampler=sampler)
        sets = {key: frozenset(boxes) for key, boxes in found.items()}
        levels = {level for level, _ in sets}
        out[sampler] = {
            "levels": len(levels),
            "sets of tiles": len(set(sets.values())),
            "positive and negative alike": all(sets[level, 0] == sets[level, 1] for level in levels),
            "covers": all(covered(boxes) for boxes in sets.values()),
            "second run differs by": apart(
                sample(model, positive, negative, cfg=2.0, steps=3, sampler=sampler), result
            ),
            "another seed differs by": apart(
                sample(model, positive, negative, cfg=2.0, steps=3, sampler=sampler, seed=6), result
            ),
        }
    latent = random_latent(1)
    still = flux("flux-still")
    noise = still.model.process_latent_in(latent.clone())
    out["identity"] = apart(sample(tiled(still, moving=True), text(0), latent=latent, noise=noise), latent)
    return out


def covered(boxes) -> bool:
    canvas = torch.zeros(HEIGHT, WIDTH)
    for left, top, right, bottom in boxes:
        canvas[top:bottom, left:right] += 1
    return bool((canvas > 0).all())


@check
def moving_hints():
    """A hint that holds its own coordinates belongs to the moved tile that it comes with."""
    hint = torch.zeros(1, 3, HEIGHT, WIDTH)
    hint[:, 0] = torch.arange(HEIGHT)[:, None] / HEIGHT
    hint[:, 1] = torch.arange(WIDTH)[None, :] / WIDTH
    net = control_model(latent_input=False)
    control = comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"), extra_conds=["y", "guidance"])
    control.set_cond_hint(hint, 1.0)
    positive = node_helpers.conditioning_set_values(text(0), {"control": control})
    prepared, worst, seen = [], [0.0], set()
    control.preprocess_image = lambda a: prepared.append(tuple(a.shape)) or a
    model = tiled(flux(), moving=True)

    def see(module, args, kwargs):
        x = model.model.process_latent_out(kwargs["x"] / (1 - kwargs["timesteps"].view(-1, 1, 1, 1)))
        top, left = (int(torch.round(x[0, channel, 0, 0])) * 8 for channel in (0, 1))
        height, width = kwargs["hint"].shape[-2:]
        worst[0] = max(worst[0], apart(kwargs["hint"][0], hint[0, :, top : top + height, left : left + width]))
        seen.add((left, top, left + width, top + height))

    handle = net.register_forward_pre_hook(see, with_kwargs=True)
    latent = where()
    sample(model, positive, steps=1, denoise=0.5, latent=latent, noise=torch.zeros_like(latent))
    handle.remove()
    boxes = [(b.left, b.top, b.right, b.bottom) for b in moved(plan(), step=0, seed=5).boxes]
    one_step = len(prepared)
    crop, steps = HintCrop(), [moved(plan(), step=step, seed=5).latent for step in range(2)]
    hints = [crop(control, box, at).cond_hint_original for at in steps for box in at.boxes]
    sample(model, positive, steps=3)
    three_steps = len(prepared) - one_step
    sample(tiled(flux(), plan(tile=256), moving=True), positive, steps=3)
    return {
        "worst": worst[0],
        "the tiles of the step": seen == set(boxes) != {(b.left, b.top, b.right, b.bottom) for b in plan().boxes},
        "tiles": len(boxes),
        "canvases": len({hint.untyped_storage().data_ptr() for hint in hints}),
        "prepared": [one_step, three_steps],
        "prepared for one tile": len(prepared) - three_steps - one_step,
    }
