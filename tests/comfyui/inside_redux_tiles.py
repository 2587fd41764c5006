"""Checks for inside_redux.py: the tokens of ComfyUI's own Redux, for each tile those of its region."""

from __future__ import annotations

import comfy.ldm.flux.redux
import comfy.sd
import torch
from inside_sampling import patched, places, plan, project, random_latent, sample, text, tiled, watch, where
from inside_tools import (
    BASE,
    CONTEXT,
    HEIGHT,
    WIDTH,
    adapter,
    apart,
    check,
    features,
    flux,
    host_clip_vision,
    near,
    node,
    once,
    picture,
    refusal,
    same,
)
from torch import Tensor

from dinotile import nodes
from dinotile.dino.feature_map import sample_grid
from dinotile.hosts.comfy.redux import HostTeacher

GRID = 3  # tokens per side of a tile; the tiny Redux has 4 for a picture
WORDS = 6  # of ``text``


def siglip_and_redux(width: int = 48):
    """SigLIP and Redux of ComfyUI's own classes with random weights, 4 x 4 tokens."""
    config = {
        "model_type": "siglip_vision_model",
        "num_channels": 3,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": width,
        "image_size": 56,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "patch_size": 14,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    siglip = host_clip_vision(config)
    redux = comfy.ldm.flux.redux.ReduxImageEncoder(redux_dim=width, txt_in_features=CONTEXT)
    generator = torch.Generator().manual_seed(0)
    for module in (siglip.model, redux):
        for name, parameter in module.named_parameters():
            spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + spread * torch.randn(parameter.shape, generator=generator))
    return siglip, comfy.sd.StyleModel(redux)


def shown(image: Tensor, *, positive=None, strength=1.0, grid=GRID, crops=1, mask=None, models=None) -> list:
    siglip, style = models or once("redux", siglip_and_redux)
    return node(nodes.ReduxForTiles, positive or text(0), image, siglip, style, strength, grid, crops, mask)


def tokens_of(image: Tensor) -> Tensor:
    """Redux's of pictures, [B, 4, 4, C]."""
    return HostTeacher(*once("redux", siglip_and_redux)).tokens(image.movedim(-1, 1)).float().cpu()


def tokens_at(whole: Tensor, box, *, height=HEIGHT, width=WIDTH) -> Tensor:
    """Redux's tokens of the first picture at a box (left, top, right, bottom) in px, [GRID^2, C]."""
    left, top, right, bottom = box
    fractions = (top / height, left / width, (bottom - top) / height, (right - left) / width)
    return sample_grid(whole, [fractions], GRID)[0, 0].flatten(0, 1)


def run(model, *conds, steps=1, **more) -> Tensor:
    return sample(model, *conds, steps=steps, **more)


def told(model, positive, image: Tensor, **more) -> dict:
    """How far the tokens of each row of each call are from the picture's at the tile's own box, and from those elsewhere."""
    own, other, boxes, lengths, whole = [], [], set(), set(), tokens_of(image)

    def see(call):
        rows = call.options["dinotile"]["tiles"]
        slots = [
            slot
            for slot in call.options["cond_or_uncond"]
            for _ in range(len(rows) // len(call.options["cond_or_uncond"]))
        ]
        for row, context, slot in zip(rows, call.context, slots, strict=True):
            lengths.add((slot, len(context)))
            if slot == 0:
                boxes.add(row["box"])
                found = context[WORDS : WORDS + GRID**2]
                own.append(apart(found, tokens_at(whole, row["box"])))
                other.append(apart(found, tokens_at(whole, (0, 0, WIDTH, HEIGHT))))

    run(watch(model, see), positive, **more)
    return {"own": max(own), "other": min(other), "boxes": len(boxes), "lengths": sorted(lengths)}


@check
def redux_in_tiles():
    """What rows get, with CFG, with moving tiles, beside an adapter."""
    image, negative = picture(3), text(1)
    both = project(adapter(), features(), positive=shown(image))[0]
    return {
        "still": told(tiled(flux()), shown(image), image),
        "cfg": told(tiled(flux()), shown(image), image, negative=negative, cfg=2.0),
        "moving": told(tiled(flux(), moving=True), shown(image), image, steps=2),
        "beside an adapter": told(tiled(patched(adapter())), both, image),
        "another picture": apart(tokens_of(picture(4)), tokens_of(image)),
    }


@check
def redux_results():
    """Pictures with it, without, of another picture, and as the host's own node makes them."""
    import nodes as host_nodes

    image, alone = picture(3), plan(tile=256)
    siglip, style = once("redux", siglip_and_redux)
    apply = host_nodes.StyleModelApply().apply_stylemodel
    seen = siglip.encode_image(image, crop=False)
    usual, plain = run(tiled(flux()), shown(image)), run(tiled(flux()), text(0))
    untiled = run(flux(), shown(image))
    with_adapter = project(adapter(), features(), positive=shown(image))[0]
    by_adapter = run(tiled(patched(adapter())), project(adapter(), features())[0])
    hosts = apply(text(0), style, seen, 1.0, "multiply")[0]
    masked = apply(text(0), style, seen, 0.5, "attn_bias")[0]
    return {
        "strength 0": same(run(tiled(flux()), shown(image, strength=0.0)), plain),
        "effect": apart(usual, plain),
        "another picture": apart(run(tiled(flux()), shown(picture(4))), usual),
        "one tile": near(run(tiled(flux(), alone), shown(image)), untiled),
        "one tile, half": near(
            run(tiled(flux(), alone), shown(image, strength=0.5)), run(flux(), shown(image, strength=0.5))
        ),
        "tiles": apart(usual, untiled),
        "as the host's": apart(run(flux(), shown(image, grid=4)), run(flux(), hosts)),
        "behind the host's": apart(
            run(tiled(flux(), alone), shown(image, positive=masked)), run(flux(), shown(image, positive=masked))
        ),
        "twice is strength 2": apart(
            run(tiled(flux()), shown(image, positive=shown(image))),
            run(tiled(flux()), shown(image, strength=2.0)),
        ),
        "twice": apart(run(tiled(flux()), shown(image, positive=shown(image))), usual),
        "crops": apart(run(tiled(flux()), shown(image, crops=2)), usual),
        "beside an adapter": apart(run(tiled(patched(adapter())), with_adapter), by_adapter),
        "zero": near(
            run(tiled(flux(), alone), text(0), host_nodes.ConditioningZeroOut().zero_out(shown(image))[0], cfg=2.0),
            run(flux(), text(0), host_nodes.ConditioningZeroOut().zero_out(shown(image))[0], cfg=2.0),
        ),
    }


@check
def redux_masks():
    """Where the mask is 0 a tile is as without; where it is 1 as without a mask."""
    image, half = picture(3), torch.zeros(1, HEIGHT, WIDTH)
    half[:, :, WIDTH // 2 :] = 1
    masked, plain, usual = (
        run(tiled(flux()), positive) for positive in (shown(image, mask=half), text(0), shown(image))
    )
    nothing = shown(image, mask=torch.zeros(1, HEIGHT, WIDTH))
    return {
        "dark": apart(masked[..., :4], plain[..., :4]),
        "white": apart(masked[..., -4:], usual[..., -4:]),
        "effect": apart(usual[..., :4], plain[..., :4]),
        "untiled, all dark": apart(run(flux(), nothing), run(flux(), text(0))),
        "all dark twice": apart(
            run(tiled(flux()), shown(image, positive=nothing, mask=half * 0)), run(tiled(flux()), text(0))
        ),
    }


@check
def redux_batches():
    """Each picture of a batch gets its own tokens, also where the latent holds each twice."""
    images = torch.cat([picture(3), picture(4)])
    worst, seen, whole = [], set(), tokens_of(images)

    def see(call):
        for (top, left, number), context in zip(places(call, model), call.context, strict=True):
            wanted = tokens_at(whole[number % 2, None], (8 * left, 8 * top, 8 * left + 64, 8 * top + 64))
            worst.append(apart(context[WORDS:], wanted))
            seen.add(number)

    model = tiled(flux(), node(nodes.PlanTiles, WIDTH, HEIGHT, 64, 16, "exact")[0])
    latent = where(batch=4)
    run(watch(model, see), shown(images), denoise=0.5, latent=latent, noise=torch.zeros_like(latent))
    return {"worst": max(worst), "pictures": sorted(seen)}


@check
def redux_in_the_one_node():
    """A picture whose sides are no whole tokens: tiles are places of the picture, not of the padded canvas."""
    image, worst = picture(3, height=72, width=104), []
    whole = tokens_of(image)

    def see(call):
        for row, context in zip(call.kwargs["dinotile_tiles"], call.context, strict=True):
            worst.append(apart(context[WORDS:], tokens_at(whole, row["box"], height=72, width=104)))

    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    node(
        nodes.Upscale,
        image,
        watch(flux(), see),
        vae,
        shown(image),
        text(1),
        1.0,
        0.5,
        1,
        "euler",
        "simple",
        1.0,
        64,
        16,
        1.0,
        0,
    )
    return {"worst": max(worst), "tiles": len(worst)}


def one_after_the_other(positive: list) -> Tensor:
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    return node(
        nodes.SequentialUpscale, picture(3, height=64, width=96), flux(), vae, positive, text(1), 1.0, 0.5, 1, "euler",
        "simple", 1.0, 64, 16, 1.0, 0,
    )  # fmt: skip


@check
def redux_refusals():
    image = picture(3)
    siglip, style = once("redux", siglip_and_redux)
    later = shown(image)
    later[0][0] = later[0][0] * 0.5
    wide = [[torch.zeros(1, WORDS, 2 * CONTEXT), text(0)[0][1]]]
    lame = comfy.sd.StyleModel(comfy.ldm.flux.redux.ReduxImageEncoder(redux_dim=48, txt_in_features=CONTEXT))
    lame.model.load_state_dict(style.model.state_dict())
    lame.model.redux_down.bias.fill_(float("nan"))
    many = torch.cat([picture(seed) for seed in range(3)])
    return {
        "no Redux": refusal(lambda: shown(image, models=(siglip, comfy.sd.StyleModel(torch.nn.Linear(2, 2))))),
        "text of another width": refusal(lambda: shown(image, positive=wide)),
        "strength": refusal(lambda: shown(image, strength=3.0)),
        "grid": refusal(lambda: shown(image, grid=0)),
        "crops": refusal(lambda: shown(image, crops=3)),
        "NaN in Redux": refusal(lambda: shown(image, models=(siglip, lame))),
        "NaN in the picture": refusal(lambda: shown(image * float("nan"))),
        "a node behind": refusal(lambda: run(tiled(flux()), later)),
        "three pictures": refusal(lambda: run(tiled(flux()), shown(many), latent=random_latent(1, 2))),
        "two texts": refusal(lambda: shown(many, positive=[[text(0)[0][0].repeat(2, 1, 1), {}]])),
        "a node behind, one tile after the other": refusal(lambda: one_after_the_other(later)),
        "three pictures, one tile after the other": refusal(lambda: one_after_the_other(shown(many))),
        "made zero, one tile after the other": refusal(
            lambda: one_after_the_other([[0 * text, said] for text, said in shown(image)])
        ),
        "mask of another shape": refusal(lambda: shown(image, mask=torch.zeros(1, 64, 64))),
        "masks": refusal(lambda: shown(image, mask=torch.ones(2, 8, 8))),
    }
