"""Checks for inside.py: hints that are patches of the model, by hand as in inside_controls.py."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import comfy.ldm.anima.lllite
import comfy.ldm.supir.supir_modules as supir_modules
import comfy.ldm.wan.uni3c
import comfy.model_patcher
import comfy.sd
import torch
from comfy.ldm.lumina.controlnet import ZImage_Control
from comfy_extras.nodes_model_patch import (
    AnimaLLLiteApply,
    QwenImageBlockWiseControlNet,
    QwenImageDiffsynthControlnet,
    SUPIRApply,
    WanUni3CControlnetApply,
    ZImageFunControlnet,
)
from inside_controls import OPERATIONS, Apply, Hint, by_hand
from inside_families import latent, planned, sample
from inside_sampling import tiled
from inside_tools import CHECKS, check, node, picture, refusal
from inside_zoo import CPU, WIDTH, built, decoder, draw, text
from torch import Tensor

from dinotile import nodes
from dinotile.hosts.comfy.patch_crop import PatchCrop
from dinotile.hosts.comfy.patch_kinds import owner

DEEPER = {"model_channels": 64, "channel_mult": [1, 1, 1], "num_res_blocks": [2, 2, 2], "num_heads": -1}
DEEPER |= {
    "num_head_channels": 64,
    "transformer_depth": [0, 0, 0, 0, 1, 1],
    "transformer_depth_output": [0] * 6 + [1] * 3,
}


def patch_of(net: torch.nn.Module) -> Any:
    draw(net, still=False)
    return comfy.model_patcher.ModelPatcher(net.requires_grad_(False), load_device=CPU, offload_device=CPU)


def z_image(model: Any, vae: Any) -> Apply:
    """With a picture to inpaint of twice the size, which the host encodes in the first call."""
    net = ZImage_Control(
        dim=256, n_heads=2, n_kv_heads=2, multiple_of=32, n_control_layers=1, additional_in_dim=17, refiner_control=True,
        **OPERATIONS,
    )  # fmt: skip
    patch, node = patch_of(net), ZImageFunControlnet()

    def apply(model: Any, positive: list, negative: list, image: Tensor, mask: Tensor) -> tuple[Any, list, list]:
        double = (1 - image).repeat_interleave(2, 1).repeat_interleave(2, 2)
        more = {"inpaint_image": double, "mask": mask}
        return node.diffsynth_controlnet(model, patch, vae, image, 0.7, **more)[0], positive, negative

    return apply


def qwen_image(model: Any, vae: Any) -> Apply:
    patch = patch_of(QwenImageBlockWiseControlNet(num_layers=1, dim=64, additional_in_dim=4, **OPERATIONS))
    node = QwenImageDiffsynthControlnet()

    def apply(model: Any, positive: list, negative: list, image: Tensor, mask: Tensor) -> tuple[Any, list, list]:
        return node.diffsynth_controlnet(model, patch, vae, image, 0.7, mask=mask)[0], positive, negative

    return apply


def lllite(model: Any, vae: Any) -> Apply:
    """Whose hint one patch reads, for the patches of several layers."""
    first = "lllite_conditioning1"
    state = {f"{first}.conv1.weight": torch.zeros(16, 4, 4, 4), f"{first}.conv3.weight": torch.zeros(32, 16, 4, 4)}
    state[f"{first}.proj.weight"] = torch.zeros(32, 32, 1, 1)
    for layer in ("self_attn_q_proj", "cross_attn_q_proj", "mlp_layer1"):
        state[f"lllite_dit_blocks_0_{layer}.down.weight"] = torch.zeros(8, 96)
        state[f"lllite_dit_blocks_0_{layer}.cond_to_film.weight"] = torch.zeros(16, 32)
    patch, node = patch_of(comfy.ldm.anima.lllite.AnimaLLLite(state, {}, **OPERATIONS)), AnimaLLLiteApply()

    def apply(model: Any, positive: list, negative: list, image: Tensor, mask: Tensor) -> tuple[Any, list, list]:
        return node.apply_patch(model, patch, image, 3.0, 0.0, 1.0, mask=mask)[0], positive, negative

    return apply


def supir(model: Any, vae: Any, *, restore: float = 0.0) -> Apply:
    """Whose patches are methods of one object, which keeps what it found in the call."""
    net, widths, beside = torch.nn.Module(), [64] * 10, [64] * 9 + [0]
    net.control_model = supir_modules.GLVControl(
        model_channels=64, channel_mult=(1, 1, 1), attention_resolutions=(4,), transformer_depth=(1, 1, 1),
        context_dim=WIDTH, **OPERATIONS,
    )  # fmt: skip
    modules = [
        supir_modules.ZeroSFT(of, of, concat_channels=more, **OPERATIONS)
        for of, more in zip(widths, beside, strict=True)
    ]
    for place in (6, 3):
        modules.insert(place, supir_modules.ZeroCrossAttn(widths[place], beside[place], **OPERATIONS))
    net.project_modules = torch.nn.ModuleList(modules)
    patch, settings = patch_of(net), {"strength_start": 1.0, "strength_end": 1.0, "restore_cfg": restore}

    def apply(model: Any, positive: list, negative: list, image: Tensor, mask: Tensor) -> tuple[Any, list, list]:
        more = {"vae": vae, "image": image, "restore_cfg_s_tmin": 0.05}
        return SUPIRApply.execute(model=model, model_patch=patch, **settings, **more).args[0], positive, negative

    return apply


def uni3c(model: Any, vae: Any) -> Apply:
    net = comfy.ldm.wan.uni3c.WanUni3CControlnet(
        conv_out_dim=32, dim=64, ffn_dim=64, num_heads=2, num_layers=1, time_embed_dim=96, out_proj_dim=96, mid_channels=8,
        **OPERATIONS,
    )  # fmt: skip
    patch, node = patch_of(net), WanUni3CControlnetApply()

    def apply(model: Any, positive: list, negative: list, image: Tensor, mask: Tensor) -> tuple[Any, list, list]:
        return node.apply_patch(model, patch, vae, image, 0.7, 0.0, 1.0)[0], positive, negative

    return apply


def vace(model: Any, vae: Any) -> Apply:
    """Whose hint is latents and a mask of them in the conditioning, as the host's node for one frame makes them."""

    def apply(model: Any, positive: list, negative: list, image: Tensor, mask: Tensor) -> tuple[Any, list, list]:
        shown = vae.encode(image).repeat(1, 2, 1, 1, 1)
        kept = torch.nn.functional.pixel_unshuffle(mask[None], 8).unsqueeze(2)
        said = {"vace_frames": [shown], "vace_mask": [kept], "vace_strength": [1.0]}
        return model, *([[c, {**d, **said}] for c, d in conds] for conds in (positive, negative))

    return apply


@check
def hints_refused():
    """Hints that a tile cannot be given its part of."""
    pid, unet, laid_out = built("PiD"), built("SDXL", **DEEPER), built("HiDream-O1")
    rows, columns = (8 * cells for cells in latent(unet).shape[-2:])
    sizes = {"of another size": (256, 256), "a token short": (rows - 32, columns)}
    shown = {
        name: supir(unet, decoder(unet))(unet, [], [], picture(3, height=height, width=width), torch.zeros(1))[0]
        for name, (height, width) in sizes.items()
    }
    return {
        "PiD": refusal(lambda: sample(tiled(pid, planned(pid)), "PiD", latent(pid))),
        "HiDream-O1": refusal(lambda: sample(tiled(laid_out, planned(laid_out)), "HiDream-O1", latent(laid_out))),
        **{
            f"SUPIR {name}": refusal(
                partial(lambda other: sample(tiled(other, planned(unet)), "SDXL", latent(unet)), model)
            )
            for name, model in shown.items()
        },
    }


@check
def laid_out_one_by_one():
    """A model in px that lays out its whole picture, which each tile of *Sequential Tiled Upscale* is."""
    name, vae = "HiDream-O1", comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    words, image = text(name), picture(3, height=45, width=70)
    out = node(
        nodes.SequentialUpscale, image, built(name), vae, words, words, 2.0, 0.5, 1, "euler", "simple", 1.0, 96, 32, 1.0, 0
    )  # fmt: skip
    return {"size": list(out.shape), "finite": bool(out.isfinite().all())}


@check
def copies_of_hints():
    """What a call's copies are, and whether any outlives it; how often what they show is encoded in tiles of two steps."""
    unet, wan = built("SDXL", **DEEPER), built("Wan 2.1")
    given = picture(3, height=8 * latent(unet).shape[-2], width=8 * latent(unet).shape[-1])
    model, _, _ = supir(unet, decoder(unet))(unet, [], [], given, torch.zeros(1, 8, 8))
    crop = PatchCrop(planned(unet))
    made = crop(model.model_options["transformer_options"]["patches"], (0, 0, 64, 64), CPU)
    copies = {id(each): weakref.ref(each) for listed in made.values() for each in map(owner, listed)}
    del made
    gc.collect()
    vae, encoded = decoder(wan), []
    encode = vae.encode
    vae.encode = lambda pixels: encoded.append(len(pixels)) or encode(pixels)
    sample(tiled(uni3c(wan, vae)(wan, [], [], given, None)[0], planned(wan)), "Wan 2.1", latent(wan), steps=2)
    return {
        "copies": len(copies),
        "left": sum(each() is not None for each in copies.values()),
        "encoded": len(encoded),
        "tiles": planned(wan).count,
    }


HINTS = {
    "Z-Image Fun, inpainting": Hint("Z-Image", z_image),
    "Qwen-Image DiffSynth, inpainting": Hint("Qwen-Image", qwen_image),
    "Anima LLLite": Hint("Cosmos Predict 2", lllite),
    "SUPIR": Hint("SDXL", supir, DEEPER),
    "Wan Uni3C": Hint("Wan 2.1", uni3c),
    "Wan VACE": Hint("Wan 2.1 VACE", vace),
}
for name, hint in HINTS.items():
    CHECKS[f"by hand {name}"] = partial(by_hand, hint)
