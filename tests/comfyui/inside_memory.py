"""Checks for inside.py: memory that ends, by torch's own error from a hook on the tiny models, at every stage."""

from __future__ import annotations

import logging

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from inside_sampling import patched, project, sample, text, tiled
from inside_tools import BASE, adapter, apart, check, dino, features, flux, node, picture

from dinotile import nodes
from dinotile.hosts.comfy import dino as dino_path


class Full:
    """A module that runs out of memory where ``too_much`` says so of its first input, and what it was given otherwise."""

    def __init__(self, module: torch.nn.Module, too_much) -> None:
        self.done, self.failed, self.too_much = [], 0, too_much
        self.hook = module.register_forward_pre_hook(self)

    def __call__(self, module, args) -> None:
        if self.too_much(args[0]):
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.done.append(tuple(args[0].shape))

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_) -> None:
        self.hook.remove()


class Said(logging.Handler):
    """What the pack's log told while it was there."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.lines.append(record.getMessage())

    def __enter__(self) -> list[str]:
        logging.getLogger("dinotile").addHandler(self)
        return self.lines

    def __exit__(self, *_) -> None:
        logging.getLogger("dinotile").removeHandler(self)


@check
def fewer_tiles():
    """Tiles with two conditionings each, of which the device holds so many at a time; and the next run after that."""
    positive, negative = project(adapter(), features())
    found = {}
    for name, steps, most in (("still", 1, 1), ("moving", 2, 5)):
        model = tiled(patched(adapter()), moving=name == "moving")
        network = model.model.diffusion_model
        usual = sample(model, positive, negative, cfg=2.0, steps=steps)
        with Said() as said, Full(network, lambda x, most=most: len(x) > most) as full:
            less = sample(model, positive, negative, cfg=2.0, steps=steps)
        found[name] = {"differs by": apart(less, usual), "rows": rows(full), "failed": full.failed, "said": said}
    with Full(network, lambda x: False) as full:
        sample(model, positive, negative, cfg=2.0, steps=1)
    return {**found, "rows of the next run": rows(full)}


def rows(full: Full) -> list[int]:
    return [shape[0] for shape in full.done]


def demo_vae() -> comfy.sd.VAE:
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(BASE / "models" / "vae" / "vae.safetensors")))


def upscaled(
    vae: comfy.sd.VAE, tile: int = 128, height: int = 240, width: int = 320, steps: int = 1, **more
) -> torch.Tensor:
    """Of one picture."""
    settings = 1.0, 0.5, steps, "euler", "simple", 1.0, tile, 16, 1.0, 0
    return node(
        nodes.Upscale, picture(height=height, width=width), flux(), vae, text(0), text(1), *settings, tile_fit="exact", **more
    )  # fmt: skip


@check
def smaller_tiles():
    """Tiles of 256 px, of which from the second step on none fits; the first is not repeated."""
    network, calls = flux().model.diffusion_model, []

    def too_much(x) -> bool:
        calls.append(x.shape)
        return len(calls) > 1 and x.shape[-1] > 24

    with Said() as said, Full(network, too_much) as full:
        result = upscaled(demo_vae(), tile=256, height=256, width=400, steps=2)
    with Said() as never, Full(network, lambda x: True):
        try:
            upscaled(demo_vae())
            error = "none"
        except torch.OutOfMemoryError as raised:
            error = str(raised)
    return {
        "sizes": [[shape[0], *shape[-2:]] for shape in full.done],
        "said": said,
        "finite": bool(result.isfinite().all()) and list(result.shape) == [1, 256, 400, 3],
        "where none is small enough": [never[-1], error],
    }


@check
def vae_and_dino_alone():
    """The VAE in lower strips, and models that get the device for themselves."""
    vae, seeing, found = demo_vae(), dino(), {}
    halves = vae.first_stage_model.taesd_encoder, vae.first_stage_model.taesd_decoder
    first, last = (
        [module for module in half.modules() if isinstance(module, torch.nn.Conv2d)][at]
        for half, at in zip(halves, (0, -1), strict=True)
    )
    patches = next(module for module in seeing.model.modules() if isinstance(module, torch.nn.Conv2d))
    usual = _guided(vae, seeing)

    def large(x) -> bool:
        return x.shape[-2:].numel() > 20_000

    def crowded(x) -> bool:
        return len(comfy.model_management.current_loaded_models) > 1

    for name, hooked in (("strips", ((first, large), (last, large))), ("alone", ((last, crowded), (patches, crowded)))):
        dino_path.FEATURES.__init__()  # so that it looks again
        with Said() as said, Full(*hooked[0]) as one, Full(*hooked[1]) as other:
            less = _guided(vae, seeing)
        failed = min(one.failed, other.failed)
        found[name] = {"differs by": apart(less, usual), "said": list(dict.fromkeys(said)), "failed": failed}
    return found


def _guided(vae: comfy.sd.VAE, seeing) -> torch.Tensor:
    return upscaled(vae, dino=seeing, adapter=adapter())
