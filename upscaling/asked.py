"""What is asked for, before a model is loaded: which files, and whether each option would do anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..files.errors import printable
from ..files.options import check_acting
from ..hosts.diffusers.narrow import check_weights
from ..hosts.diffusers.offload import check_offload
from ..hosts.diffusers.sources import ModelFiles, find_variant, model_files
from ..hosts.diffusers.text import has_text_encoders
from ..hosts.diffusers.upscale_model import check_upscale_model
from .device import find_device
from .settings import DINO_ALONE, UpscaleSettings


def files_for(options: dict[str, Any], *, cfg: bool, estimates: bool) -> ModelFiles:
    """Of the models that are asked for; ValueError where one of the options would do nothing or cannot be had on the device.
    cfg: whether it is above 1. estimates: whether they are guided."""
    variant, dino = options.get("variant", "demo"), not options.get("no_dino")
    named = ("model_path", "vae_path", "dino", "adapter", "upscale_model")
    files = model_files(variant, **{name: options.get(name) for name in named})
    text = find_variant(variant).text_tokens > 0 and has_text_encoders(files.flux)
    check_acting(
        [name for name, value in options.items() if value and value != getattr(UpscaleSettings, name, None)],
        ("without no_dino", dino, ("dino", "adapter")),
        (
            "with a DINO model and its adapter",
            dino and None not in (files.dino, files.adapter),
            ("dino_strength", "dino_guidance", "dino_layers"),
        ),
        (
            "with a DINO model, and its adapter or guide above 0",
            dino and files.dino is not None and bool(files.adapter or options.get("guide")),
            ("dino_mask",),
        ),
        ("with a DINO model", dino and files.dino is not None, tuple(DINO_ALONE)),
        ("with controlnet", bool(options.get("controlnet")), ("controlnet_strength",)),
        ("with redux", bool(options.get("redux")), ("redux_strength", "redux_grid")),
        ("with cfg above 1", cfg, ("negative",)),
        (
            "with anchor or guide above 0",
            estimates,
            ("decoder", "guide_from", "guide_to", "guide_every"),
        ),
        (
            "with FLUX's text encoders (a whole pipeline as the model)",
            text,
            ("prompt", "negative", "cfg", "mask_padding"),
        ),
        (
            "with full weights, and without attention_slicing and offload sequential",
            (options.get("weights", "full"), options.get("attention_slicing", False)) == ("full", False)
            and options.get("offload") != "sequential",
            ("compile",),
        ),
    )
    device = find_device(options.get("device", "auto"))
    check_weights(options.get("weights", "full"), device)
    check_offload(options.get("offload", "none"), device)
    if files.upscale_model is not None:
        check_upscale_model(files.upscale_model)
    return files


def check_text(name: str, text: object) -> None:
    """ValueError for what is no text, or has bytes that are none, which the command's shell or a file brought."""
    if not isinstance(text, str):
        raise ValueError(f"{name} {printable(text)} must be text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} {printable(text)} has bytes of another encoding, which no model reads: give it as text, or type it in a "
            "terminal that is set to UTF-8"
        ) from error


def check_texts(prompt: object, negative: object, prompts: object = ()) -> None:
    """``check_text`` of each that is given; ValueError where the prompts are no sequence."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise ValueError(f"prompts {printable(prompts)} must be a list of texts")
    for name, text in (("prompt", prompt), ("negative", negative)):
        if text is not None:
            check_text(name, text)
    for text in prompts:
        check_text("prompt", text)
