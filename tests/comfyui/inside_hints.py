"""Checks for inside.py: areas, masks, reference latents and Fill's picture reach each tile cropped."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.controlnet
import comfy.ldm.flux.controlnet
import comfy.ops
import comfy.sd
import comfy.utils
import node_helpers
import torch
from inside_sampling import counted, patched, places, plan, project, sample, text, tiled, watch, where
from inside_tools import (
    COLUMNS,
    CONTEXT,
    HEIGHT,
    ROWS,
    TILE,
    WIDTH,
    adapter,
    apart,
    check,
    check_families,
    features,
    fill_model,
    flux,
    once,
    same,
)
from torch.nn.functional import pixel_unshuffle

import nodes as host_nodes


@check
def regions():
    """Areas, masks, strengths and time ranges of combined prompts, against ComfyUI without tiles.

    The model's velocity is a constant of the prompt, so that tiling can change nothing but the weights.
    """
    model = flux("flux-pooled")
    left = torch.zeros(1, HEIGHT // 2, WIDTH // 2)
    left[..., : WIDTH // 4] = 1.0
    soft = torch.linspace(0, 1, WIDTH)[None, None].expand(1, HEIGHT, WIDTH)
    a, b, c = text(10), text(11), text(12)

    def put(conditioning, **values):
        return node_helpers.conditioning_set_values(conditioning, values)

    area = (ROWS, COLUMNS // 2, 0, 0)
    cases = {
        "one prompt": a,
        "area beside area": put(a, area=area, strength=1.0)
        + put(b, area=(ROWS, COLUMNS // 2, 0, COLUMNS // 2), strength=1.0),
        "area over a prompt": a + put(b, area=(8, 9, 5, 7), strength=0.7),
        "area in percent": a + put(b, area=("percentage", 0.5, 0.4, 0.2, 0.3), strength=1.0),
        "mask over a prompt": a + put(b, mask=left, set_area_to_bounds=False, mask_strength=0.8),
        "soft masks": put(a, mask=soft, set_area_to_bounds=False, mask_strength=1.0)
        + put(b, mask=1 - soft, set_area_to_bounds=False, mask_strength=1.0),
        "mask to its bounds": a + put(b, mask=left, set_area_to_bounds=True, mask_strength=1.0),
        "three, one for a while": a + put(b, mask=left, mask_strength=1.0) + put(c, start_percent=0.5, end_percent=0.8),
    }
    out = {}
    for name, conditioning in cases.items():
        steps = 4 if "for a while" in name else 1
        plain = sample(model, conditioning, text(1), cfg=2.0, steps=steps)
        of_tiles = sample(tiled(model), conditioning, text(1), cfg=2.0, steps=steps)
        out[name] = apart(of_tiles, plain)
    only_a, only_b = sample(tiled(model), a), sample(tiled(model), b)
    beside = sample(tiled(model), cases["mask over a prompt"] + put(a, mask=1 - left, mask_strength=1e6))
    out["prompts differ by"] = apart(only_a, only_b)
    out["outside its mask a prompt has no say"] = apart(
        beside[..., COLUMNS // 2 + 2 :], only_a[..., COLUMNS // 2 + 2 :]
    )
    return out


@check
def regions_skip_tiles():
    """A prompt with an area runs only in the tiles that it touches."""
    rows = []
    conditioning = text(10) + node_helpers.conditioning_set_values(text(11), {"area": (4, 4, 0, 0), "strength": 1.0})
    model, rows = counted(tiled(flux("flux-pooled")))
    sample(model, conditioning, steps=1)
    return {"rows": sum(rows), "tiles": plan().count}


@check_families
def reference_latents():
    out = {}
    shapes = {"canvas size": (ROWS, COLUMNS), "double size": (2 * ROWS, 2 * COLUMNS), "other picture": (12, 30)}
    for name, (rows, columns) in shapes.items():
        reference = where(rows=rows, columns=columns)
        worst, sizes = [0.0], set()
        model = tiled(patched(adapter()))

        def see(call, model=model, worst=worst, sizes=sizes, rows=rows):
            (given,) = call.kwargs["ref_latents"]
            given = model.model.process_latent_out(given)
            sizes.add(tuple(given.shape[-2:]))
            for (top, left, _), row in zip(places(call, model), given, strict=True):
                factor = rows / ROWS
                worst[0] = max(
                    worst[0], abs(float(row[0, 0, 0]) - top * factor), abs(float(row[1, 0, 0]) - left * factor)
                )

        positive, _ = project(adapter(), features(), positive=text(0, reference_latents=[reference]))
        latent = where()
        sample(watch(model, see), positive, steps=1, denoise=0.5, latent=latent, noise=torch.zeros_like(latent))
        out[name] = {"worst, cells": worst[0], "sizes": sorted(sizes)}
    return out


@check
def fill():
    """FLUX.1 Fill with a masked picture and a mask that hold their own coordinates."""
    model = once("flux fill", fill_model)
    wrapped = tiled(patched(adapter(), model))
    mask = torch.arange(HEIGHT * WIDTH).view(1, 1, HEIGHT, WIDTH) / (HEIGHT * WIDTH)
    shown = {"concat_latent_image": where(), "concat_mask": mask}
    prompts = {"positive": text(0, **shown), "negative": text(1, **shown)}
    worst, seen = {"picture": 0.0, "mask": 0.0}, set()

    def see(call):
        height, width = call.x.shape[-2:]
        given = model.model.process_latent_out(call.concat[:, :16])
        for row, cells, (top, left, _) in zip(given, call.concat[:, 16:], places(call, wrapped), strict=True):
            own = where()[0, :, top : top + height, left : left + width]
            pixels = mask[0, :, top * 8 : (top + height) * 8, left * 8 : (left + width) * 8]
            worst["picture"] = max(worst["picture"], float((row - own).abs().max()))
            worst["mask"] = max(worst["mask"], float((cells - pixel_unshuffle(pixels, 8)).abs().max()))
            seen.add((top, left))

    latent, found = where(), features()
    conds = project(adapter(), found, **prompts)
    sample(watch(wrapped, see), *conds, cfg=2.0, steps=1, denoise=0.5, latent=latent, noise=torch.zeros_like(latent))
    result, plain = sample(wrapped, *conds), sample(tiled(model), prompts["positive"])
    off = sample(wrapped, *project(adapter(), found, 0.0, **prompts))
    one = sample(tiled(patched(adapter(), model), plan(tile=256)), *conds)
    return {
        "channels": model.model.diffusion_model.img_in.in_features,
        "worst": worst,
        "tiles seen": len(seen),
        "tiles": plan().count,
        "DINO changes it by": apart(result, plain),
        "strength 0 is plain": same(off, plain),
        "one tile is the whole": same(one, sample(patched(adapter(), model), *conds)),
        "another picture changes it by": apart(sample(tiled(model), text(0, concat_mask=mask)), plain),
    }


@check
def attention_masks():
    """A mask over [text | canvas tokens]: all open changes nothing, closed text changes much, with DINO's own tokens beside."""
    found, of = features(), plan()
    count = (ROWS // 2) * (COLUMNS // 2)
    out = {}
    for name, model in (("tiled", tiled(patched(adapter()), of)), ("whole", patched(adapter()))):
        plain = sample(model, project(adapter(), found, 0.6)[0])
        results = []
        for closed in (False, True):
            mask = torch.ones(1, 6 + count, 6 + count, dtype=torch.bool)
            mask[:, 6:, :6] = not closed
            put = {"attention_mask": mask, "attention_mask_img_shape": (ROWS // 2, COLUMNS // 2)}
            conds = project(adapter(), found, 0.6, positive=text(0, **put))
            results.append(apart(sample(model, conds[0]), plain))
        out[name] = {"open differs by": results[0], "closed differs by": results[1]}
    return out


@check
def redux_masks():
    """The mask of core's Apply Style Model with attn_bias, and finer ones: each tile's part of what the host would make of it."""
    rows, columns, words = ROWS // 2, COLUMNS // 2, 6 + 9
    style = SimpleNamespace(
        get_cond=lambda shown: torch.randn(1, 9, CONTEXT, generator=torch.Generator().manual_seed(4))
    )
    (redux,) = host_nodes.StyleModelApply().apply_stylemodel(text(0), style, None, 0.4, "attn_bias")
    masks = {"1 x 1": (redux[0][1]["attention_mask"].float(), (1, 1))}
    for grid in ((3, 5), (rows, columns)):
        length = words + grid[0] * grid[1]
        mask = torch.randn(1, length, length, generator=torch.Generator().manual_seed(5))
        mask[:, :, 2] = float("-inf")  # as strength 0 has it
        masks[f"{grid[0]} x {grid[1]}"] = mask, grid
    stretch = comfy.utils.upscale_dit_mask
    out = {}
    for name, (mask, grid) in masks.items():
        whole = stretch(mask.nan_to_num(neginf=-100), grid, (rows, columns)).clamp(min=-100)
        worst, latent, made = [0.0], where(), []
        wrapped = tiled(flux())

        def seen(mask, grid, size, made=made):
            made.append(stretch(mask, grid, size))
            return made[-1]

        def see(call, whole=whole, worst=worst, wrapped=wrapped):
            given = call.kwargs["attention_mask"].clamp(min=-100)
            tokens = torch.arange(rows * columns).view(rows, columns) + words
            for row, (top, left, _) in zip(given, places(call, wrapped), strict=True):
                part = tokens[top // 2 : top // 2 + TILE // 16, left // 2 : left // 2 + TILE // 16].flatten()
                keep = torch.cat([torch.arange(words), part])
                worst[0] = max(worst[0], float((row - whole[0][keep][:, keep]).abs().max()))

        conditioning = node_helpers.conditioning_set_values(
            redux, {"attention_mask": mask, "attention_mask_img_shape": grid}
        )
        comfy.utils.upscale_dit_mask = seen
        try:
            shown = {"latent": latent, "noise": torch.zeros_like(latent), "steps": 1, "denoise": 0.5}
            result = sample(watch(wrapped, see), conditioning, **shown)
        finally:
            comfy.utils.upscale_dit_mask = stretch
        out[name] = {"worst": worst[0], "finite": bool(result.isfinite().all())}
        out[name] |= {"of the canvas": [len(of[0]) for of in made if of.shape != mask.shape]}
    plain = sample(flux(), redux)
    return out | {
        "one tile differs from the whole by": apart(sample(tiled(flux(), plan(tile=256)), redux), plain),
        "bias changes it by": apart(plain, sample(flux(), [[redux[0][0], text(0)[0][1]]])),
    }
