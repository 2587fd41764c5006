"""Checks for inside.py: core's ControlNets over tiles."""

from __future__ import annotations

import comfy.controlnet
import comfy.ldm.flux.controlnet
import comfy.ops
import comfy.sd
import comfy.utils
import node_helpers
import torch
from inside_estimates import demo_vae
from inside_sampling import patched, plan, project, sample, text, tiled, where
from inside_tools import BASE, CONTEXT, HEIGHT, VECTOR, WIDTH, adapter, apart, check, features, flux, node, picture

from dinotile import nodes
from dinotile.flux_patch.families import FLUX1
from dinotile.hosts.comfy.padded import placed
from nodes import ConditioningSetAreaPercentage, ConditioningSetMask


def control_model(*, latent_input: bool):
    """A one-block FLUX ControlNet, fresh weights."""
    torch.manual_seed(3)
    with torch.inference_mode(False):
        model = comfy.ldm.flux.controlnet.ControlNetFlux(
            latent_input=latent_input, image_model="flux", in_channels=16, out_channels=16, vec_in_dim=VECTOR,
            context_in_dim=CONTEXT, hidden_size=256, mlp_ratio=4.0, num_heads=2, depth=1, depth_single_blocks=1,
            axes_dim=[16, 56, 56], txt_ids_dims=[], theta=10000, patch_size=2, qkv_bias=True, guidance_embed=False,
            operations=comfy.ops.manual_cast, dtype=torch.float32, device="cpu",
        )  # fmt: skip
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval().requires_grad_(False)


@check
def controlnet_hints():
    """A hint that holds its own coordinates; what arrives at the ControlNet belongs to the tile that it gets."""
    out = {}
    for name, scale, cfg in (("half size", 2, 1.0), ("canvas size, cfg 2", 1, 2.0)):
        hint = torch.zeros(1, 3, HEIGHT // scale, WIDTH // scale)
        hint[:, 0] = torch.arange(HEIGHT // scale)[:, None] / HEIGHT * scale
        hint[:, 1] = torch.arange(WIDTH // scale)[None, :] / WIDTH * scale
        full = comfy.utils.common_upscale(hint, WIDTH, HEIGHT, "nearest-exact", "center")
        net = control_model(latent_input=False)
        control = comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"), extra_conds=["y", "guidance"])
        control.set_cond_hint(hint, 1.0)
        prepared, used, worst, seen = [], [], [0.0], set()
        control.preprocess_image = lambda a, prepared=prepared: prepared.append(tuple(a.shape)) or a
        model = tiled(patched(adapter()))

        def see(module, args, kwargs, model=model, used=used, worst=worst, full=full, seen=seen):
            x = model.model.process_latent_out(kwargs["x"] / (1 - kwargs["timesteps"].view(-1, 1, 1, 1)))
            for row, given in zip(x, kwargs["hint"].expand(len(x), -1, -1, -1), strict=True):
                top, left = (int(torch.round(row[channel, 0, 0])) * 8 for channel in (0, 1))
                tile = full[0, :, top : top + given.shape[-2], left : left + given.shape[-1]]
                worst[0] = max(worst[0], float((given - tile).abs().max()))
                seen.add((top, left))
            used.append(len(x))

        handle = net.register_forward_pre_hook(see, with_kwargs=True)
        positive, negative = project(adapter(), features())
        positive = node_helpers.conditioning_set_values(positive, {"control": control, "control_apply_to_uncond": True})
        latent = where()
        sample(model, positive, negative, cfg=cfg, steps=1, denoise=0.5, latent=latent, noise=torch.zeros_like(latent))
        handle.remove()
        prepared_once = len(prepared)
        prepared.clear()
        result = sample(model, positive, negative, cfg=cfg, steps=2)
        without = sample(model, *project(adapter(), features()), cfg=cfg, steps=2)
        out[name] = {
            "worst": worst[0],
            "tiles seen": len(seen),
            "rows per call": sorted(set(used)),
            "prepared, 1 step": prepared_once,
            "prepared, 2 steps": len(prepared),
            "effect": apart(result, without),
            "hint of the canvas is kept": control.cond_hint_original is hint,
        }
    return out | {"tiles": plan().count}


@check
def controlnet_latents():
    """A ControlNet on VAE latents: each tile's crop is encoded once."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    net = control_model(latent_input=True)
    control = comfy.controlnet.ControlNet(
        net, compression_ratio=1, latent_format=comfy.latent_formats.Flux(), load_device=torch.device("cpu"),
        extra_conds=["y", "guidance"],
    )  # fmt: skip
    image = picture(4)
    hint = image.movedim(-1, 1)
    encoded = []
    encode = vae.encode
    vae.encode = lambda pixels: encoded.append(tuple(pixels.shape)) or encode(pixels)
    control.set_cond_hint(hint, 1.0, vae=vae)
    model, worst = tiled(flux()), [0.0]

    def see(module, args, kwargs):
        x = model.model.process_latent_out(kwargs["x"] / (1 - kwargs["timesteps"].view(-1, 1, 1, 1)))
        top, left = (int(torch.round(x[0, channel, 0, 0])) * 8 for channel in (0, 1))
        height, width = (side * 8 for side in x.shape[-2:])
        expected = control.latent_format.process_in(encode(image[:, top : top + height, left : left + width]))
        worst[0] = max(worst[0], apart(kwargs["hint"][:1], expected))

    handle = net.register_forward_pre_hook(see, with_kwargs=True)
    positive = node_helpers.conditioning_set_values(text(0), {"control": control})
    latent = where()
    sample(model, positive, steps=1, denoise=0.5, latent=latent, noise=torch.zeros_like(latent))
    handle.remove()
    return {"worst": worst[0], "encoded": len(encoded), "tiles": plan().count}


@check
def chained_controls():
    """Two ControlNets in a row, with strength and a part of the schedule, equal ComfyUI's own where one tile is the canvas."""
    image = picture(4).movedim(-1, 1)

    def control(strength, percents):
        net = comfy.controlnet.ControlNet(
            control_model(latent_input=False), load_device=torch.device("cpu"), extra_conds=["y", "guidance"]
        )
        return net.set_cond_hint(image, strength, percents)

    first, second = control(0.7, (0.0, 1.0)), control(0.4, (0.3, 0.6))
    second.set_previous_controlnet(first)
    positive = node_helpers.conditioning_set_values(text(0), {"control": second})
    whole = sample(flux(), positive)
    one = sample(tiled(flux(), plan(tile=256)), positive)
    only = sample(flux(), node_helpers.conditioning_set_values(text(0), {"control": first}))
    return {"one tile differs by": apart(one, whole), "second net's effect": apart(whole, only)}


@check
def padded_hints():
    """What the tiles of a picture that ends before its canvas are shown of a hint, a mask and an area; the hint holds its own
    coordinates."""
    height, width = 121, 137  # px, of a canvas of 128 x 144
    hint = torch.zeros(1, 3, height, width)
    hint[:, 0] = torch.arange(height)[:, None] / height
    hint[:, 1] = torch.arange(width)[None, :] / width
    net, seen = control_model(latent_input=False), []
    control = comfy.controlnet.ControlNet(net, load_device=torch.device("cpu"), extra_conds=["y", "guidance"])
    control.set_cond_hint(hint, 1.0)
    control.preprocess_image = lambda a: a

    def see(module, args, kwargs):
        rows, columns = kwargs["hint"][0, 0, :, 0] * height, kwargs["hint"][0, 1, 0] * width
        seen.append([[round(float(line[at])) for at in (0, -1)] for line in (rows, columns)])

    handle = net.register_forward_pre_hook(see, with_kwargs=True)
    positive = node_helpers.conditioning_set_values(text(0), {"control": control})
    out = {}
    for kind in (nodes.Upscale, nodes.SequentialUpscale):
        seen.clear()
        given = picture(height=height, width=width), flux(), demo_vae(), positive, text(1)
        node(kind, *given, 1.0, 0.5, 1, "euler", "simple", 1.0, 80, 16, 1.0, 0)
        out[kind.__name__] = sorted(map(list, {tuple(map(tuple, each)) for each in seen}))
    handle.remove()
    left = torch.zeros(1, height, width)
    left[..., :72] = 1
    said = [*ConditioningSetMask().append(positive, left, "default", 1.0)[0]]
    said += ConditioningSetAreaPercentage().append(positive, 0.5, 1.0, 0.5, 0.25, 1.0)[0]
    first, second = placed(said, positive, latents=FLUX1, size=(height, width))
    out["mask"] = [round(float(each), 3) for each in first[0][1]["mask"][0, -1]]
    out["area"] = list(first[1][1]["area"])
    out["one ControlNet"] = first[0][1]["control"] is second[0][1]["control"] is not control
    whole = placed(said, latents=FLUX1, size=(128, 144))[0]
    out["nothing is padded"] = whole[0][1]["control"] is control and whole[1][1]["area"] == said[1][1]["area"]
    return out
