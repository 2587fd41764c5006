"""Checks for inside.py: LoRAs, what is refused, and tensors for the parity with diffusers."""

from __future__ import annotations

import comfy.controlnet
import comfy.ldm.modules.diffusionmodules.openaimodel as openai_model
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import numpy as np
import torch
from inside_sampling import patched, plan, project, random_latent, sample, text, tiled, upscale
from inside_tools import (
    BASE,
    CONTEXT,
    DEMO,
    DEMO_FLUX,
    HEIGHT,
    OUT,
    OVERLAP,
    PACK,
    TILE,
    WIDTH,
    adapter,
    apart,
    check,
    check_families,
    dino,
    features,
    flux,
    near,
    node,
    picture,
    refusal,
    used,
)
from PIL import Image
from safetensors.torch import save_file

from dinotile import nodes
from dinotile.flux_patch.families import FLUX1
from dinotile.flux_patch.redux import ReduxTokens
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.comfy.folders import model_path
from dinotile.hosts.comfy.sampling import denoise_sigmas
from dinotile.hosts.comfy.shown import show


@check
def refusals():
    found = features()
    unet = openai_model.UNetModel(
        image_size=8, in_channels=4, model_channels=32, out_channels=4, num_res_blocks=[1], channel_mult=(1,), num_heads=4,
        use_spatial_transformer=True, context_dim=16, transformer_depth=[1], transformer_depth_output=[1, 1],
        transformer_depth_middle=1,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    holder = torch.nn.Module()
    holder.diffusion_model = unet
    cpu = torch.device("cpu")
    other = comfy.model_patcher.ModelPatcher(holder, load_device=cpu, offload_device=cpu)
    nan, vae = picture(height=32, width=32), None
    nan[0, 3, 3] = float("nan")
    sizes = {name: torch.rand(*shape) for name, shape in {
        "grey": (1, 40, 48, 1), "alpha": (1, 40, 48, 4), "grey and alpha": (1, 40, 48, 2), "one px": (1, 1, 1, 3),
        "ten to one": (1, 16, 160, 3), "smaller than a tile": (1, 30, 50, 3),
    }.items()}  # fmt: skip
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))
    made = {}
    for name, image in sizes.items():
        result = upscale(vae=vae, image=image, dino=dino(), scale=1.5)
        made[name] = [list(result.shape), bool(result.isfinite().all())]
    tokens = project(adapter(), found)
    said = {
        "UNet patched": lambda: patched(adapter(), other),
        "UNet, new adapter": lambda: node(nodes.NewAdapter, other, dino(), "2/3", "all", 32, 8, 1, 2, 0),
        "FLUX.2": lambda: patched(adapter(), flux("flux2")),
        "FLUX of another width": lambda: patched(adapter(), flux("flux-wide")),
        "adapter of another DINO": lambda: project(adapter("for-other-dino"), found),
        "adapter of other layers": lambda: project(adapter("for-other-layers"), found),
        "unpatched model": lambda: sample(flux(), *tokens),
        "model patched with another": lambda: sample(patched(adapter("second")), *tokens),
        "NaN": lambda: upscale(vae=vae, image=nan),
        "infinite": lambda: node(nodes.ExtractPatches, dino(), nan.nan_to_num(float("inf")), "2/3", 0, 1),
        "no picture": lambda: node(nodes.ExtractPatches, dino(), nan[:0], "2/3", 0, 1),
        "five channels": lambda: upscale(vae=vae, image=torch.rand(1, 16, 16, 5)),
        "alpha of NaN": lambda: upscale(vae=vae, image=torch.cat([picture(height=32, width=32), nan[..., :1]], dim=-1)),
        "overlap not below tile": lambda: plan(tile=64, overlap=64),
        "tile off the grid": lambda: plan(tile=72),
        "latent of another size": lambda: sample(tiled(flux()), text(0), latent=random_latent(rows=10)),
        "three pictures, two latents": lambda: sample(
            patched(adapter()), *project(adapter(), features(batch=3)), latent=random_latent(1, 2)
        ),
        "three pictures, two latents, tiled": lambda: sample(
            tiled(patched(adapter())), *project(adapter(), features(batch=3)), latent=random_latent(1, 2)
        ),
        "tiled twice": lambda: tiled(tiled(flux())),
        "dino without adapter": lambda: node(
            nodes.Upscale, nan, flux(), vae, text(0), text(0), 2.0, 0.3, 1, "euler", "simple", 1.0, 64, 16, 1.0, 0, dino=dino()
        ),
        "scale": lambda: upscale(vae=vae, scale=99.0),
        "layers": lambda: node(nodes.ExtractPatches, dino(), picture(), "9", 0, 1),
        "several masks": lambda: project(adapter(), found, mask=torch.ones(2, 8, 8)),
        "mask of another shape": lambda: project(adapter(), found, mask=torch.zeros(1, 64, 64)),
        "start after end": lambda: project(adapter(), found, start=0.8, end=0.2),
        "missing DINO file": lambda: node(nodes.LoadDino, "nothing.safetensors"),
        "missing adapter file": lambda: node(nodes.LoadAdapter, "nothing.safetensors"),
    }  # fmt: skip
    for kind, loader in (("DINO", nodes.LoadDino), ("adapter", nodes.LoadAdapter)):
        for name in ("pickle", "truncated", "foreign"):
            said[f"{name} as {kind}"] = lambda loader=loader, name=name: node(loader, f"{name}.safetensors")
    said["default conditioning"] = lambda: sample(tiled(flux()), text(0) + text(2, default=True))
    return {"pictures": made, "said": {name: refusal(action) for name, action in said.items()}}


@check
def lora():
    """A LoRA loaded before or after the pack's nodes, as ComfyUI's LoRA loader does."""
    generator, name = torch.Generator().manual_seed(8), "lora_unet_double_blocks_0_img_attn_proj"
    weights = {
        f"{name}.lora_up.weight": torch.randn(256, 4, generator=generator),
        f"{name}.lora_down.weight": torch.randn(4, 256, generator=generator) * 0.2,
    }

    def with_lora(model):
        return comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0.0)[0]

    found = features()
    on, off = project(adapter(), found)[0], project(adapter(), found, 0.0)[0]
    without = sample(tiled(patched(adapter())), on)
    last = with_lora(tiled(patched(adapter())))
    result, only_lora = sample(last, on), sample(with_lora(tiled(flux())), text(0))
    return {
        "changes the result by": apart(result, without),
        "loaded first is loaded last": near(sample(tiled(patched(adapter(), with_lora(flux()))), on), result),
        "DINO changes it by": apart(result, only_lora),
        "strength 0 is the LoRA alone": near(sample(last, off), only_lora),
        "the model without it is as before": near(sample(tiled(patched(adapter())), on), without),
    }


def keep_run(
    name,
    model,
    *,
    encoder,
    chosen,
    prompt,
    images,
    settings,
    of,
    strength,
    latent,
    noise,
    steps,
    denoise,
    redux=None,
    controlnet=None,
) -> None:
    """Sample with and without DINO, with Redux's tokens, with DINO and a ControlNet; write what diffusers needs for the same."""
    schedule = {"steps": steps, "denoise": denoise}
    found = node(nodes.ExtractPatches, encoder, images, *settings)
    positive, _ = project(chosen, found, strength, positive=prompt, negative=prompt)
    inner = model.model
    tensors = {
        "pixels": images.movedim(-1, 1),
        "latent": inner.process_latent_in(latent),
        "noise": noise,
        "sigmas": denoise_sigmas(model, "simple", **schedule),
        "context": prompt[0][0],
        "pooled": prompt[0][1].get("pooled_output", torch.zeros(1, 0)),
    }
    with_dino = patched(chosen, model)
    runs = {
        "result": (tiled(with_dino, of), positive),
        "without": (tiled(model, of), prompt),
        "moved": (tiled(with_dino, of, moving=True), positive),
    }
    if redux is not None:
        tensors["redux"] = redux.tokens
        runs["shown"] = (tiled(model, of), show(prompt, redux))
    if controlnet is not None:
        tensors["hint"] = inner.process_latent_in(random_latent(4, len(latent)))
        runs["controlled"] = (tiled(with_dino, of), controlled(positive, controlnet, tensors["hint"], strength))
    for key, (wrapped, conditioning) in runs.items():
        result = sample(wrapped, conditioning, latent=latent, noise=noise, **schedule)
        tensors[key] = inner.process_latent_in(result)
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, OUT / f"{name}.safetensors")


def controlled(prompt, name, hint, strength):
    """The prompt with a ControlNet from a file, which is shown latents as they are."""
    net = comfy.controlnet.load_controlnet(model_path(name, "controlnet"))
    net.latent_format = None
    net.set_cond_hint(hint, strength)
    return [[c, {**d, "control": net, "control_apply_to_uncond": True}] for c, d in prompt]


@check_families
def for_diffusers():
    """A tiled run on tiny models, whose inputs and result test_parity.py hands to diffusers."""
    if used().family is not FLUX1:
        keep_run(
            "flux2", flux("flux2-dev"), encoder=dino(), chosen=adapter("for-dev"), prompt=text(0), images=picture(3),
            settings=("2/3", 224, 1), of=plan(), strength=0.8, latent=random_latent(1), noise=random_latent(2), steps=2,
            denoise=0.6,
        )  # fmt: skip
        sizes = {name: getattr(plan(), name) for name in ("tile_height", "overlap", "height", "width")}
        return {**sizes, "tile": sizes["tile_height"], "strength": 0.8}
    keep_run(
        "tiny", flux(), encoder=dino(), chosen=adapter(), prompt=text(0), images=picture(3, 2), settings=("2/3", 224, 1),
        of=plan(), strength=0.8, latent=random_latent(1, 2), noise=random_latent(2, 2), steps=4, denoise=0.6,
        redux=ReduxTokens(random_latent(3, 2, 4, CONTEXT)[:, :4].contiguous(), 3, Strength(0.8)),
        controlnet="controlnet.safetensors",
    )  # fmt: skip
    return {"tile": TILE, "overlap": OVERLAP, "height": HEIGHT, "width": WIDTH, "strength": 0.8}


@check
def demo_for_diffusers():
    """The same with the models and the photo in demo/."""
    with Image.open(PACK / "demo" / "sample.jpg") as photo:
        image = torch.from_numpy(np.asarray(photo.convert("RGB")).copy())[None] / 255
    height, width = image.shape[1:3]
    model, chosen, of = flux(DEMO_FLUX), adapter(DEMO), plan(256, 32, height, width)
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(model_path(f"{DEMO}.safetensors", "vae")))
    keep_run(
        "demo", model, encoder=node(nodes.LoadDino, f"{DEMO}.safetensors"), chosen=chosen,
        prompt=node(nodes.EmptyConditioning, model, 8, 3.5), images=image, settings=(chosen.adapter.config.layers, 0, 1),
        of=of, strength=1.0, latent=vae.encode(image), noise=random_latent(2, rows=height // 8, columns=width // 8),
        steps=2, denoise=0.3,
    )  # fmt: skip
    sizes = {"tile": 256, "overlap": 32, "height": height, "width": width, "strength": 1.0}
    return sizes | {"tiles": of.count, "computes in": str(model.model.get_dtype_inference())}
