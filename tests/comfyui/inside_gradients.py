"""Checks for inside_training.py: velocities and gradients beside diffusers and the host's sampler, of every family."""

from __future__ import annotations

import comfy.ops
import torch
import torch.nn.functional as F
from inside_sampling import patched, project, random_latent, sample, text
from inside_tools import (
    CONTEXT,
    OUT,
    VECTOR,
    adapter,
    apart,
    check,
    check_every_family,
    check_on,
    dino,
    features,
    flux,
    picture,
    same,
    used,
)
from inside_zoo import decoder
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from training_tools import host_with, train, vae

from dinotile.dino.feature_map import FeatureMap
from dinotile.flux_patch.rows import DinoRow
from dinotile.flux_patch.schedule import Strength
from dinotile.hosts.comfy import training as host_training
from dinotile.hosts.comfy.latents import flat
from dinotile.hosts.host import Text
from dinotile.training.adapter.start import copied


def rows_of_a_call(frozen, found: FeatureMap) -> dict:
    """Arguments of ``Host.velocity``: two windows of a picture, the learned null, and another picture's window."""
    generator = torch.Generator().manual_seed(3)
    on = Strength(1.0)
    tokens = frozen.adapter.module.project(found.to(frozen.device))
    rows = [
        DinoRow(tokens, 0, (0.0, 0.0, 0.5, 0.5), on),
        DinoRow(tokens, 0, (0.5, 0.25, 0.5, 0.75), on),
        DinoRow(None, 0, (0.0, 0.0, 1.0, 1.0), on),
        DinoRow(tokens, 1, (0.1, 0.2, 0.6, 0.6), on),
    ]
    return {
        "latents": torch.randn(4, 16, 8, 12, generator=generator),
        "sigmas": torch.tensor([0.003, 0.2, 0.6, 0.99]),
        "context": torch.randn(4, 5, CONTEXT, generator=generator),
        "pooled": torch.randn(4, VECTOR, generator=generator),
        "mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4, [True] * 4 + [False]]),
        "rows": rows,
    }


def velocity_and_gradients(chosen, found: FeatureMap, *, model, **settings) -> dict[str, Tensor]:
    with host_training.gradients():
        frozen = host_with(chosen, model=model, **settings)
        module = frozen.adapter.module.requires_grad_(True).train()
        call = rows_of_a_call(frozen, found)
        told = Text(call["context"], call["pooled"], 3.0, call["mask"])
        with frozen.running():
            velocity = frozen.velocity(call["latents"], call["sigmas"], text=told, rows=call["rows"])
            velocity.square().mean().backward()
        out = {f"gradient {name}": p.grad for name, p in module.named_parameters()}
        return {"velocity": velocity.detach(), **out}


@check
def for_diffusers():
    """Velocity and adapter gradients, with blocks kept and computed again, and a picture through the VAE."""
    generator = torch.Generator().manual_seed(4)
    flux(), flux("flux-dev"), vae(), dino(), adapter()  # loaded in the inference mode of a node
    with host_training.gradients():
        patches, cls = torch.randn(2, 6, 7, 128, generator=generator), torch.randn(2, 128, generator=generator)
        found = FeatureMap(patches, cls, "dinov2-demo", "3", (84, 98))
        call = rows_of_a_call(host_with(adapter()), found)
        frozen = host_with(adapter())
        pixels = picture(5, 2, 48, 64).movedim(-1, 1)
        latents = frozen.encode(pixels)
        tensors = {"pixels": pixels, "encoded": latents, "decoded": frozen.decode(latents)}
    tensors |= {"patches": patches, "cls": cls}
    tensors |= {name: call[name] for name in ("latents", "sigmas", "context", "pooled", "mask")}
    out = {}
    for name in ("flux", "flux-dev"):
        kept, again = (
            velocity_and_gradients(adapter(), found, model=flux(name), gradient_checkpointing=on)
            for on in (False, True)
        )
        out[f"{name}: computed again differs by"] = max(apart(again[part], kept[part]) for part in kept)
        tensors |= {f"{name} {part}": tensor for part, tensor in kept.items()}
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, OUT / "call.safetensors")
    return out


class Watch(TorchFunctionMode):
    """Whether cuDNN's kernels may be taken, at every attention that has a backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention and any(each.requires_grad for each in args[:3]):
            self.seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return func(*args, **(kwargs or {}))


def kernels():
    """Of the model's and the adapter's attention, where the host allows every kernel just around it, as it does on CUDA."""
    every = [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]

    def as_on_cuda(*args, **kwargs):
        with sdpa_kernel(every):
            return F.scaled_dot_product_attention(*args, **kwargs)

    model, small, chosen = flux(), decoder(flux()), adapter().adapter  # loaded in the inference mode of a node
    ((context, more),), seen = text(0), flat(random_latent(3, rows=8, columns=12))
    before, comfy.ops.scaled_dot_product_attention = comfy.ops.scaled_dot_product_attention, as_on_cuda
    try:
        with Watch() as watch, host_training.gradients():
            host = host_training.TrainingHost(model, small, copied(chosen))
            module, patches = host.adapter.module.requires_grad_(True).train(), torch.randn(1, 6, 7, 128)
            tokens = module.project(FeatureMap(patches, patches[:, 0, 0], "dinov2-demo", "3", (84, 98)))
            heard = Text(context.clone(), more.get("pooled_output", torch.zeros(1, 0)).clone())
            row, sigmas = DinoRow(tokens, settings=Strength(1.0)), torch.tensor([0.6])
            with host.running():
                host.velocity(seen.clone(), sigmas, text=heard, rows=[row]).square().mean().backward()
    finally:
        comfy.ops.scaled_dot_product_attention = before
    return {"attentions": len(watch.seen), "in cuDNN": sum(watch.seen)}


check_on(kernels, "krea2")  # whose blocks no patch replaces


def patches_in_patches() -> int:
    """How many trainings' patches lie in one another after trainings with nothing between them."""
    deepest = 0
    with host_training.gradients():
        for _ in range(3):
            host = host_training.TrainingHost(flux(), decoder(flux()), copied(adapter().adapter))
            replaced = host.patcher.model_options["transformer_options"].get("patches_replace", {}).get("dit", {})
            for each in (*host.patcher.object_patches.values(), *replaced.values()):
                depth = 0
                while isinstance(each, host_training.TrainedForward | host_training.TrainedBlock):
                    each, depth = getattr(each, "forward", None) or getattr(each, "inner", None), depth + 1
                deepest = max(deepest, depth)
    return deepest


def beside_the_sampler() -> float:
    """How far a training's velocity is from that of the host's own sampling, of the same text and DINO rows."""
    model, chosen, found = flux(), adapter(), features()
    ((context, more),) = text(0)
    told = {name: value for name, value in more.items() if name != "guidance" or used().family.name != "chroma"}
    noise, level = random_latent(3), 0.6
    positive = project(chosen, found, positive=[[context, told]])[0]
    sigmas = torch.tensor([level, 0.0])
    sampled = sample(patched(chosen), positive, latent=torch.zeros_like(noise), noise=noise, sigmas=sigmas)
    x = level * noise
    wanted = (x - model.model.process_latent_in(sampled)) / level
    with host_training.gradients(), torch.no_grad():
        frozen = host_training.TrainingHost(model, decoder(model), copied(chosen.adapter))
        tokens = frozen.adapter.module.project(found.to(frozen.device))
        heard = Text(context.clone(), more.get("pooled_output", torch.zeros(1, 0)).clone(), 3.5)
        row, flat_x = DinoRow(tokens, settings=Strength(1.0)), flat(x).clone()
        velocity = frozen.velocity(flat_x, sigmas[:1].clone(), text=heard, rows=[row])
    return apart(velocity, flat(wanted))


@check_every_family
def of_family():
    """An adapter of a family, and the same trained with checkpointing."""
    model, name = flux(), used().family.name
    plain = sample(model, text(0))
    of = {"model": model, "vae": decoder(model)}
    learned, again = (train(f"{name} {on}", gradient_checkpointing=on, **of)[0].adapter for on in (False, True))
    weights, others = (dict(one.module.named_parameters()) for one in (learned, again))
    return {
        "family": learned.config.geometry.family,
        "mechanisms": learned.config.mechanisms,
        "values": [float(weight.abs().max()) for name, weight in weights.items() if name.endswith(".v.weight")],
        "checkpointed": max(float((weights[name] - others[name]).abs().max()) for name in weights),
        "beside the sampler": beside_the_sampler(),
        "patches in patches": patches_in_patches(),
        "the model is as it was": same(sample(model, text(0)), plain),
    }
