"""The Python API: the command line's work as two functions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from .. import demo
from ..dino.load import load_dino
from ..files.pictures import Picture, from_image, load_picture, to_image
from ..flux_patch.checkpoint import load_adapter
from ..hosts.diffusers.flux import Text
from ..hosts.diffusers.load import dino_path, load_transformer, load_vae, local_path
from ..hosts.diffusers.text import encode_text, has_text_encoders
from ..tiling.canvas import resize
from .pipeline import Progress, Upscaler
from .settings import UpscaleSettings, find_variant, settings_for

if TYPE_CHECKING:
    from ..dino.encode import DinoEncoder
    from ..flux_patch.adapter import DinoAdapter


def upscale(
    image: str | os.PathLike[str] | Image.Image,
    *,
    scale: float = 2.0,
    strength: float = 0.3,
    steps: int | None = None,
    variant: str = "demo",
    model_path: str | Path | None = None,
    vae_path: str | Path | None = None,
    dino: str | Path | None = None,
    dino_layers: str = "",
    adapter: str | Path | None = None,
    dino_strength: float = 1.0,
    dino_guidance: float = 1.0,
    no_dino: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    fidelity: float | None = None,
    prompt: str | None = None,
    guidance: float = 3.5,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Image.Image:
    """One picture, ``scale`` times as large. The keywords are the command line's; None takes the variant's default.

    For many pictures, load once with ``load_upscaler`` and call ``upscale_picture``. Raises ValueError for bad input.
    """
    settings = settings_for(
        variant,
        scale=scale,
        strength=strength,
        steps=steps,
        tile=tile,
        overlap=overlap,
        fidelity=fidelity,
        guidance=guidance,
        seed=seed,
        dino_strength=dino_strength,
        dino_guidance=dino_guidance,
    )
    picture = from_image(image) if isinstance(image, Image.Image) else load_picture(image)
    upscaler = load_upscaler(
        variant,
        model_path=model_path,
        vae_path=vae_path,
        dino=dino,
        dino_layers=dino_layers,
        adapter=adapter,
        no_dino=no_dino,
        prompt=prompt,
        device=device,
        dtype=dtype,
    )
    result, _ = upscale_picture(upscaler, picture, settings, progress=progress)
    return to_image(result.pixels, alpha=result.alpha)


def upscale_picture(
    upscaler: Upscaler, picture: Picture, settings: UpscaleSettings, *, progress: Progress | None = None
) -> tuple[Picture, dict[str, Any]]:
    """A picture with its transparency and its colour profile, and the report of ``Upscaler.upscale``."""
    pixels, report = upscaler.upscale(picture.pixels, settings, progress=progress)
    alpha = None
    if picture.alpha is not None:
        alpha = resize(picture.alpha, height=pixels.shape[-2], width=pixels.shape[-1])
    return replace(picture, pixels=pixels, alpha=alpha), report


def load_upscaler(
    variant: str = "demo",
    *,
    model_path: str | Path | None = None,
    vae_path: str | Path | None = None,
    dino: str | Path | None = None,
    dino_layers: str = "",
    adapter: str | Path | None = None,
    no_dino: bool = False,
    prompt: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Upscaler:
    """All models of a variant on their device. Paths are files, diffusers folders or hub names; None: the variant's."""
    found = find_variant(variant)
    where = find_device(device)
    kind = find_dtype(dtype, variant=variant)
    flux: str | Path = model_path or found.repository or demo.FLUX
    vae = vae_path or _vae_of(flux, default=found.repository or demo.VAE)
    encoder, module = _load_dino(dino, adapter=adapter, no_dino=no_dino, flux=flux)
    text = _text(flux, prompt=prompt, tokens=found.text_tokens, device=where, dtype=kind)
    return Upscaler(
        load_transformer(flux, dtype=kind),
        load_vae(vae, dtype=kind),
        dino=encoder,
        adapter=module,
        dino_layers=dino_layers,
        text=text,
        device=where,
        dtype=kind,
    )


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used ({reason}): use auto, cuda, cuda:1, mps or cpu") from error
    return device


def find_dtype(name: str, *, variant: str) -> torch.dtype:
    """The dtype of that name; "auto" is float32 for the demo models and bfloat16, FLUX's own, for the others."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        return torch.float32 if variant == "demo" else torch.bfloat16
    if name not in known:
        raise ValueError(f"dtype {name!r} must be one of auto, {', '.join(known)}")
    return known[name]


def _vae_of(flux: str | Path, *, default: str | Path) -> str | Path:
    """The VAE that comes with a model: its pipeline's, else the variant's."""
    path = local_path(flux)
    return flux if path is None or (path / "vae").is_dir() else default


def _load_dino(
    dino: str | Path | None, *, adapter: str | Path | None, no_dino: bool, flux: str | Path
) -> tuple[DinoEncoder | None, DinoAdapter | None]:
    if no_dino:
        if dino or adapter:
            raise ValueError("no_dino was given together with a DINO model or an adapter: leave one of them out")
        return None, None
    if flux == demo.FLUX and adapter is None and demo.ADAPTER.is_file():
        adapter = demo.ADAPTER
    if flux == demo.FLUX and adapter is not None:
        dino = dino or demo.DINO
    if (dino is None) != (adapter is None):
        have, lack = ("dino", "adapter") if adapter is None else ("adapter", "dino")
        raise ValueError(f"{have} was given without {lack}: FLUX is guided by both together, give both or neither")
    if dino is None or adapter is None:
        return None, None
    return load_dino(dino_path(dino)), load_adapter(Path(adapter).expanduser())


def _text(
    flux: str | Path, *, prompt: str | None, tokens: int, device: torch.device, dtype: torch.dtype
) -> Text | None:
    if tokens and has_text_encoders(flux):
        return encode_text(flux, prompt=prompt or "", tokens=tokens, device=device, dtype=dtype)
    if prompt:
        raise ValueError(
            f"a prompt needs FLUX's text encoders, which {flux} does not bring: "
            "give a whole pipeline (hub name or folder) as the model, or leave the prompt out"
        )
    return None
