"""The Python API: the command line's work as two functions."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..dino.load import load_dino
from ..files.errors import kind_of
from ..files.kinds import MEGAPIXELS
from ..files.paths import expanded, path_of
from ..files.pictures import Picture, load_picture, picture_of, to_image
from ..files.pixels import resize
from ..files.progress import Progress, counted
from ..flux_patch.checkpoint import load_adapter
from ..hosts.diffusers.load import load_controlnet, load_transformer, load_vae
from ..hosts.diffusers.narrow import Weights, narrow
from ..hosts.diffusers.offload import Offload
from ..hosts.diffusers.redux import load_teacher
from ..hosts.diffusers.sources import Source, dino_path, find_variant
from ..hosts.diffusers.text import has_text_encoders
from ..hosts.diffusers.texts import Texts, load_encode
from ..hosts.diffusers.upscale_model import load_upscale_model
from ..hosts.host import Text
from ..hosts.precision import check_bfloat16
from .asked import check_texts, files_for
from .device import find_device, find_dtype
from .guides import check_pair
from .masks import EVERYWHERE, Masks, load_masks
from .mode import mode_for
from .settings import MASKS, STRENGTH, UpscaleSettings, settings_for
from .upscaler import Upscaler

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

log = logging.getLogger("dinotile")
_LOADING = RLock()  # what loads models changes torch for all threads


def upscale(
    image: str | os.PathLike[str] | Image.Image,
    *,
    max_megapixels: float = MEGAPIXELS,
    progress: Progress | None = None,
    **options: Any,
) -> Image.Image:
    """One picture, ``scale`` times as large, in 8 bits; grey where it was grey, with what its file said in ``info``.

    options: the command line's, which are the keywords of ``load_upscaler``, the fields of ``UpscaleSettings`` and masks; None
    takes the variant's default. max_megapixels: of a file. For many pictures, and for 16 bits, load once with
    ``load_upscaler``, and call ``load_picture``, ``upscale_picture`` and ``save_picture``; arrays and tensors go to
    ``Upscaler.upscale``. Raises ValueError for bad input.
    """
    settings, models, masks = split_options(options)
    if isinstance(image, Image.Image):
        picture = picture_of(image)
    else:
        path = path_of(
            image,
            what="the picture",
            do="give that or a PIL image, and arrays and tensors to load_upscaler(...).upscale(pixels, settings)",
        )
        picture = load_picture(path, max_megapixels=max_megapixels)
    if picture.note:
        log.warning("%s", picture.note)
    where = load_masks(**masks, max_megapixels=max_megapixels)
    where.check(*picture.pixels.shape[-2:])
    with _LOADING:  # to the end, as nobody else may load beside it
        upscaler = load_upscaler(**models, progress=progress)
        result, _ = upscale_picture(upscaler, picture, settings, masks=where, progress=progress)
    drawn = to_image(result.pixels, alpha=result.alpha, grey=result.grey)
    said = replace(result.metadata, icc=result.icc or b"")
    drawn.info |= {**said.texts, **said.options("TIFF")}
    return drawn


def split_options(options: dict[str, Any]) -> tuple[UpscaleSettings, dict[str, Any], dict[str, Any]]:
    """Options of an upscaling as settings and those of ``load_upscaler`` and ``load_masks``; ValueError for unknown ones, and
    for those that would do nothing."""
    settings = {field.name for field in fields(UpscaleSettings)} | {STRENGTH}
    models = set(inspect.signature(load_upscaler).parameters) - {"progress", "dino_uses", "prompts"}
    known = settings | models | set(MASKS)
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"there is no option {', '.join(unknown)}, there are {', '.join(sorted(known))}")
    if options.get("decoder") and options.get("anchor") is None and not options.get("guide"):
        options = {**options, "anchor": 1.0}  # costs little with a small one; beside it guide would have nothing to do
    chosen = settings_for(
        options.get("variant", "demo"), **{name: value for name, value in options.items() if name in settings}
    )
    check_texts(options.get("prompt"), options.get("negative"))
    files = files_for(options, cfg=chosen.cfg > 1, estimates=not chosen.on_estimates.off)
    if chosen.cfg > 1 and not has_text_encoders(files.flux):
        raise ValueError(
            f"{options.get('variant')} is guided by text at cfg {chosen.cfg:g}, and {files.flux} brings no text encoders: give a "
            "whole pipeline as the model, or cfg 1"
        )
    uses = {"dino_uses": chosen.dino_uses} if chosen.dino_uses else {}
    return (
        chosen,
        {name: value for name, value in options.items() if name in models} | uses,
        {name: value for name, value in options.items() if name in MASKS},
    )


def upscale_picture(
    upscaler: Upscaler,
    picture: Picture,
    settings: UpscaleSettings,
    *,
    masks: Masks = EVERYWHERE,
    progress: Progress | None = None,
) -> tuple[Picture, dict[str, Any]]:
    """A picture with its transparency and what else its file said, and the report of ``Upscaler.upscale``."""
    if not isinstance(picture, Picture):
        raise ValueError(
            f"the picture is {kind_of(picture)}, needed is a Picture: take load_picture(path), or Picture(pixels)"
        )
    mode = mode_for(settings, height=picture.pixels.shape[-2], width=picture.pixels.shape[-1])
    settings = replace(settings, mode=mode)
    pixels, report = upscaler.upscale(picture.pixels, settings, masks=masks, progress=progress)
    alpha = None
    if picture.alpha is not None:
        alpha = resize(picture.alpha, height=pixels.shape[-2], width=pixels.shape[-1])
    metadata = replace(picture.metadata, recipe="")  # the source's, if it has one, is not this picture's
    return replace(picture, pixels=pixels, alpha=alpha, metadata=metadata), report


def load_upscaler(
    variant: str = "demo",
    *,
    model_path: Source | None = None,
    vae_path: Source | None = None,
    decoder: Source | None = None,
    controlnet: Source | None = None,
    upscale_model: Source | None = None,
    dino: Source | None = None,
    dino_layers: str = "",
    adapter: Source | None = None,
    no_dino: bool = False,
    redux: Source | None = None,
    prompt: str | None = None,
    negative: str | None = None,
    mask_padding: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    weights: Weights = "full",
    offload: Offload = "none",
    attention_slicing: bool = False,
    compile: bool = False,
    dino_uses: Sequence[str] = (),
    prompts: Sequence[str] = (),
    progress: Progress | None = None,
) -> Upscaler:
    """All models of a variant on their device. Paths are files, diffusers folders or hub names; None: the variant's.

    prompt, negative: of FLUX's text encoders, which must come with the model; a cfg above 1 leads from the negative, an empty
    one where none is given, to the prompt. redux: a folder of diffusers or a hub name with FLUX.1 Redux and its SigLIP, whose
    tokens of each tile follow the text. mask_padding: whether FLUX.1's attention leaves out the padding of T5's tokens; it was
    trained with it. weights: of FLUX, "full" (in dtype), "fp8" or "nf4". offload: "none", "model" (what does not
    compute rests in the CPU's memory) or "sequential" (FLUX and its text encoders rest there, layer by layer: slow).
    controlnet: one of FLUX.1 that is shown the enlarged picture (tile, upscaling, or a union's tile mode), tile by tile.
    upscale_model: a .safetensors file of an upscaler (ESRGAN and its like) that makes the first enlargement, or "bicubic"; None:
    the variant's, else bicubic.
    decoder: a small one of the model's latents (TAEF1, TAEF2), which anchor and guide look with instead of the VAE.
    attention_slicing, compile: see ``hosts.diffusers``' ``slicing`` and ``compiled``. dino_uses: see ``Upscaler``.
    prompts: further ones, for ``Upscaler.with_prompt``, about in the order in which they will be asked for, with repeats: a GiB
    of them lies in memory, and behind it the text encoders are loaded once more.
    """
    files = files_for(locals(), cfg=True, estimates=True)
    check_texts(prompt, negative, prompts)
    where = find_device(device)
    kind = find_dtype(dtype, variant=variant)
    if kind == torch.bfloat16:
        check_bfloat16(where, setting=f"dtype {dtype}", instead="choose float16 or float32")
    tokens = find_variant(variant).text_tokens
    parts: dict[str, Callable[[], Any]] = {}
    if files.upscale_model is not None:
        parts["upscale_model"] = partial(load_upscale_model, files.upscale_model)  # first: only its header is known
    if not no_dino:
        check_pair(files.dino, files.adapter, uses=dino_uses)
        if files.dino is not None:
            dino_file = files.dino
            parts["dino"] = lambda: load_dino(dino_path(dino_file))
        if files.adapter is not None:
            parts["adapter"] = partial(load_adapter, expanded(files.adapter))
    encoder = {"device": where, "dtype": kind, "offload": offload}
    parts["texts"] = partial(
        _texts,
        Texts(prompts, partial(load_encode, files.flux, tokens=tokens, masked=mask_padding, **encoder)),
        [prompt, negative],
        told=bool(tokens) and has_text_encoders(files.flux),
    )
    parts["flux"] = partial(_flux, files.flux, dtype=kind, weights=weights)
    parts["vae"] = partial(load_vae, files.vae, dtype=kind)
    if decoder is not None:
        parts["decoder"] = partial(load_vae, decoder, dtype=kind)
    if controlnet is not None:
        parts["controlnet"] = partial(load_controlnet, controlnet, dtype=kind)
    if redux is not None:
        parts["redux"] = partial(load_teacher, redux, redux, device=where, dtype=kind)
    with _LOADING:
        loaded = {name: load() for name, load in counted(list(parts.items()), "load", progress)}
    text, away, texts = loaded["texts"]
    return Upscaler(
        loaded["flux"],
        loaded["vae"],
        decoder=loaded.get("decoder"),
        controlnet=loaded.get("controlnet"),
        upscale_model=loaded.get("upscale_model"),
        dino=loaded.get("dino"),
        adapter=loaded.get("adapter"),
        dino_layers=dino_layers,
        redux=loaded.get("redux"),
        text=text,
        negative=away,
        texts=texts,
        device=where,
        dino_uses=dino_uses,
        dtype=kind,
        offload=offload,
        attention_slicing=attention_slicing,
        compile=compile,
    )


def _texts(texts: Texts, prompts: Sequence[str | None], *, told: bool) -> tuple[Text | None, Text | None, Texts | None]:
    """Of the prompt and the negative, and of further ones; nothing where there is nobody to be told."""
    if not told:
        return None, None, None
    text, away = texts.begin(*(prompt or "" for prompt in prompts))
    return text, away, texts


def _flux(source: Source, *, dtype: torch.dtype, weights: Weights) -> FluxTransformer2DModel:
    transformer = load_transformer(source, dtype=dtype)
    narrow(transformer, weights)
    return transformer
