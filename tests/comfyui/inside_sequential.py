"""Checks for inside.py: tiles one after the other, with what the conditioning says of each one's place."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import comfy.controlnet
import comfy.samplers
import comfy.sd
import comfy.utils
import latent_preview
import node_helpers
import numpy as np
import torch
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_controlnet import SetUnionControlNetType
from comfy_extras.nodes_custom_sampler import BasicGuider, RandomNoise
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingFlux, RescaleCFG
from inside_controlnets import control_model
from inside_estimates import anchored, demo_vae
from inside_patches import run, with_style
from inside_plugged import low_rank
from inside_sampling import counted, plan, text, tiled
from inside_tools import BASE, adapter, apart, check, dino, flux, node, picture, refusal, same

from dinotile import nodes
from dinotile.hosts.comfy.folders import model_path
from dinotile.hosts.comfy.prints import print_of
from dinotile.tiling.color_match import smooth

TILE, OVERLAP, HEIGHT, WIDTH = 64, 16, 96, 144


def tiny_vae():
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))


def sequential(*, model=None, vae=None, positive=None, seed=0, guided=True, pictures=1, **more):
    images = picture(height=HEIGHT, width=WIDTH).repeat(pictures, 1, 1, 1)
    return node(
        nodes.SequentialUpscale, images, model or flux(), vae or tiny_vae(), positive or text(0), text(1), 1.0,
        0.5, 1, "euler", "simple", 1.0, TILE, OVERLAP, 1.0, seed, dino=dino() if guided else None,
        adapter=adapter() if guided else None, tile_fit="exact", **more,
    )  # fmt: skip


@check
def one_after_the_other():
    """Sizes, seeds and DINO; what is kept is not sampled again, and is redone where that is asked for."""
    usual, other, blind = sequential(), sequential(seed=1), sequential(guided=False)
    model, calls = counted(flux())
    first = sequential(model=model, keep="kept")
    tiles = len(calls)
    calls.clear()
    second = sequential(model=model, keep="kept")
    repeated = len(calls)
    calls.clear()
    third = sequential(model=model, keep="kept", redo="1")
    held: list[tuple[float, int]] = []
    matched, asked = sequential(color_match="wavelet"), nodes.SequentialUpscale.fingerprint_inputs
    linked = partial(nodes.SequentialUpscale.validate_inputs, TILE, OVERLAP)  # which the host gives as None

    def off(anchor, **more):
        calls.clear()
        result = sequential(model=model, vae=demo_vae(), guided=False, anchor=anchor, keep="anchored", **more)
        held.append((anchor, len(calls)))
        return float((result - picture(height=HEIGHT, width=WIDTH)).square().mean())

    coarse = [smooth((each - picture(height=HEIGHT, width=WIDTH)).movedim(-1, 1)) for each in (usual, matched)]
    return {
        "shape": list(usual.shape),
        "finite": bool(usual.isfinite().all()),
        "tiles": tiles,
        "keeping is equal": same(first, usual),
        "calls of the second run": repeated,
        "second run is equal": same(second, first),
        "calls to redo one": len(calls),
        "redone differs by": apart(third, first),
        "redone differs beside it by": apart(third[:, :, TILE:], first[:, :, TILE:]),
        "another seed differs by": apart(other, usual),
        "without DINO differs by": apart(blind, usual),
        "coarse colours are off by": [float(each.abs().mean()) for each in coarse],
        "asked again": [asked(keep="kept", redo=redo) == asked(keep="kept", redo=redo) for redo in ("", "1", None)],
        "by links": [linked(keep=None, redo="1"), linked(keep="kept", redo=None), linked(keep=None, redo=None)],
        "redo of none": [
            linked(keep=" ", redo="1"),
            refusal(lambda: sequential(redo="1")),
            refusal(lambda: nodes.SequentialUpscale.check_lazy_status(redo="1")),
        ],
        "off the source by": [off(0.0), off(1.0), off(1.0, decoder=tiny_vae()), off(1.0)],
        "calls with an anchor": held,
        "redo of two": refusal(lambda: sequential(keep="kept", redo="1", pictures=2)),
        "a path is no name": refusal(lambda: sequential(keep="../other")),
    }


@check
def noise_of_each_step():
    """A sampler that adds noise in every step draws another in each tile: what two tiles of one grey have apart after a step is
    not only what they had apart before it, in proportion."""
    grey, seen = torch.full((1, 64, 128, 3), 0.5), []
    model = flux().clone()
    model.set_model_unet_function_wrapper(
        lambda run, told: seen.append(told["input"].clone()) or torch.zeros_like(told["input"])
    )
    node(
        nodes.SequentialUpscale, grey, model, tiny_vae(), text(0), text(1), 1.0, 1.0, 2, "euler_ancestral", "simple", 1.0, 64, 0,
        0.0, 0, tile_fit="exact",
    )  # fmt: skip
    before, after = (one - other for one, other in zip(seen[:2], seen[2:], strict=True))  # two steps of two tiles
    share = (before * after).sum() / (before * before).sum()
    return {"calls": len(seen), "before": apart(seen[0], seen[2]), "added": apart(share * before, after)}


@check
def noise_by_place():
    """What joint tiles begin with by *Noise by Place*, beside those of *Sequential Tiled Upscale*: at denoise 1 that is noise."""
    grey, seen = torch.full((1, 64, 128, 3), 0.5), []
    model = flux().clone()
    model.set_model_unet_function_wrapper(
        lambda run, told: seen.append(told["input"].clone()) or torch.zeros_like(told["input"])
    )
    node(
        nodes.SequentialUpscale, grey, model, tiny_vae(), text(0), text(1), 1.0, 1.0, 1, "euler", "simple", 1.0, 64, 0,
        0.0, 7, tile_fit="exact",
    )  # fmt: skip
    tiles, plan = torch.cat(seen), node(nodes.PlanTiles, 128, 64, 64, 0, "exact")[0]
    seen.clear()
    guider, sigmas = BasicGuider.execute(model, text(0))[0], torch.tensor([1.0, 0.0])
    sampler, latent = comfy.samplers.sampler_object("euler"), {"samples": torch.zeros(1, 16, 8, 16)}
    for noise in (node(nodes.NoiseByPlace, 7), RandomNoise.execute(7)[0]):
        node(nodes.TiledSampler, noise, guider, sampler, sigmas, latent, plan)
    by_place, usual = torch.cat(seen).split(2)
    seen.clear()
    for asked in ({"noise": "place"}, {"noise": "canvas"}, {}):
        node(
            nodes.Upscale, grey, model, tiny_vae(), text(0), text(1), 1.0, 1.0, 1, "euler", "simple", 1.0, 64, 0,
            0.0, 7, tile_fit="exact", **asked,
        )  # fmt: skip
    asked, canvas, unasked = torch.cat(seen).split(2)
    return {
        "by place": apart(by_place, tiles),
        "usual": apart(usual, tiles),
        "asked of one node": apart(asked, by_place),
        "canvas is what it draws unasked": same(canvas, unasked),
        "canvas and usual": apart(canvas, usual),
    }


@check
def places_of_conditioning():
    """A mask, an area and a ControlNet's hint of the whole picture reach every tile as its own part."""
    plain = sequential(guided=False)
    ((context, said),) = text(0)
    left = torch.zeros(1, HEIGHT, WIDTH)
    left[..., : WIDTH // 2] = 1
    two = [[context, {**said, "mask": left}], [text(3)[0][0], {**text(3)[0][1], "mask": 1 - left}]]
    swapped = [[context, {**said, "mask": 1 - left}], [text(3)[0][0], {**text(3)[0][1], "mask": left}]]
    whole = [[context, {**said, "area": ("percentage", 1.0, 1.0, 0.0, 0.0)}]]
    both, other = sequential(positive=two, guided=False), sequential(positive=swapped, guided=False)
    far, outer = slice(WIDTH - 16, WIDTH), sequential(positive=text(3), guided=False)

    net, hints = control_model(latent_input=False), []
    control = comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"), extra_conds=["y", "guidance"])
    hint = torch.zeros(1, 3, HEIGHT, WIDTH)
    hint[:, 0], hint[:, 1] = torch.arange(HEIGHT)[:, None] / HEIGHT, torch.arange(WIDTH)[None, :] / WIDTH
    control.set_cond_hint(hint, 1.0)
    see = net.register_forward_pre_hook(
        lambda module, args, kwargs: hints.append(
            [round(float(kwargs["hint"][0, 0, 0, 0]) * HEIGHT), round(float(kwargs["hint"][0, 1, 0, 0]) * WIDTH)]
        ),
        with_kwargs=True,
    )
    led = sequential(positive=node_helpers.conditioning_set_values(text(0), {"control": control}), guided=False)
    see.remove()
    return {
        "an area of all is as none": apart(sequential(positive=whole, guided=False), plain),
        "the first text, far left": apart(both[:, :, :16], plain[:, :, :16]),
        "the second text, far right": apart(both[:, :, far], outer[:, :, far]),
        "masks act": apart(both, other),
        "hints": sorted(hints),
        "a ControlNet acts": apart(led, plain),
        "refused": refusal(
            lambda: sequential(positive=[[context, {**said, "concat_latent_image": left}]], guided=False)
        ),
        "anchored": refusal(
            lambda: sequential(model=anchored(flux(), picture(height=HEIGHT, width=WIDTH), demo_vae()), guided=False)
        ),
    }


@check
def filling():
    """What the host is sent to show while tiles are drawn, and what it is shown at last."""
    shown, before = [], latent_preview.args.preview_method
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: shown.append(preview))
    latent_preview.args.preview_method = latent_preview.LatentPreviewMethod.NoPreviews
    sequential(guided=False)
    unasked = [preview for preview in shown if preview]
    latent_preview.args.preview_method = latent_preview.LatentPreviewMethod.Latent2RGB
    result = sequential(guided=False)
    comfy.utils.set_progress_bar_global_hook(None)
    latent_preview.args.preview_method = before
    pictures = [torch.from_numpy(np.array(preview[1])) / 255 for preview in shown if preview]
    light = [float((each - result[0]).abs().mean()) for each in pictures]
    return {"unasked": len(unasked), "shapes": {str(list(each.shape)) for each in pictures} == {str([HEIGHT, WIDTH, 3])},
            "off": light}  # fmt: skip


def beside(seed: int, strength: float = 1.0):
    """A LoRA beside the layers, of another type than theirs."""
    layer = "double_blocks.0.img_attn.proj"
    lora = {name: weight.half() for name, weight in low_rank(flux(), layer, seed).items()}
    return comfy.sd.load_bypass_lora_for_models(flux(), None, lora, strength, 0.0)[0]


def prediction(kind: str):
    return ModelSamplingDiscrete().patch(flux(), kind, False)[0]


def led(kind: str):
    """A text with a union ControlNet."""
    control = comfy.controlnet.load_controlnet(model_path("controlnet.safetensors", "controlnet"))
    control = SetUnionControlNetType.execute(control, kind).args[0].set_cond_hint(torch.ones(1, 3, 8, 8))
    return node_helpers.conditioning_set_values(text(0), {"control": control})


def told_apart() -> list:
    """Models and texts that make other pictures than one another."""
    found = [flux(), *(ModelSamplingFlux().patch(flux(), shift, 0.5, 1024, 1024)[0] for shift in (1.15, 3.0))]
    found += [RescaleCFG().patch(flux(), share)[0] for share in (0.5, 0.7)]
    found += [beside(1), beside(7), beside(1, 3.0), prediction("eps"), prediction("v_prediction")]
    found += [with_style(flux(), share) for share in (1.0, 0.5)]
    found += [APG.execute(flux(), eta, 5.0, -0.5).args[0] for eta in (1.0, 0.5)]
    for cache in (EasyCacheNode, LazyCacheNode):
        found += [cache.execute(flux(), threshold, 0.0, 1.0, False).args[0] for threshold in (0.2, 3.0)]
    return [*found, tiled(flux(), plan()), led("openpose"), led("depth")]


class Unread:
    """An object that shows nothing of what it is."""

    __slots__ = ()


@check
def names_of_models():
    """What a model is known by where tiles are kept tells its patches apart, whatever clone of it was in use before, in this
    process and in another."""
    code = "import sys, inside_tools, inside_sequential as own; print(*map(own.print_of, own.told_apart()))"
    command = [sys.executable, "-c", code, *sys.argv[1:5]]
    other = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
    things = told_apart()
    before = [print_of(each) for each in things]
    for number in (
        1,
        5,
        10,
        12,
    ):  # which leaves its schedule in the weights' place, and what else it changes while it runs
        run(things[number], cfg=2.0 if number == 12 else 1.0)  # APG acts with CFG
    unread = flux().clone()
    unread.set_model_attn1_patch(Unread())
    return {
        "names": len(set(before)) == len(things),
        "the same": [print_of(each) for each in things] == before,
        "made again": [print_of(each) for each in told_apart()] == before,
        "in another process": other.communicate()[0].split()[-len(before) :] == before,
        "unread": refusal(lambda: print_of(unread)),
    }


@check
def kept_beside():
    """Tiles of a model with a LoRA beside its layers: queued again, and with another one."""
    (one, calls), (other, _) = counted(beside(1)), counted(beside(7))
    first = sequential(model=one, guided=False, keep="beside")
    calls.clear()
    again = sequential(model=one, guided=False, keep="beside")
    repeated = len(calls)
    kept, fresh = (sequential(model=other, guided=False, keep=keep) for keep in ("beside", ""))
    return {
        "again": apart(again, first),
        "calls again": repeated,
        "other": apart(kept, first),
        "other as fresh": same(kept, fresh),
    }
