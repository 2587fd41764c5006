"""By what a patch of the model is known to show a picture, as some ControlNets are patches, and how it is cropped."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import Tensor

from .supir import HINT

Patches = dict[str, list[Any]]
KINDS = {  # what a patch has by which it is known, and how it is cropped
    ("image", "encode_latent_cond", "encoded_image"): "encoded",  # ControlNets of Z-Image and Qwen-Image
    ("image", "mask", "sigma_start"): "pixels",  # LLLite of Anima
    (HINT,): "latents",  # SUPIR
    ("render_video", "prepared_render"): "frame",  # Uni3C of Wan
}


def kind_of(patch: Any) -> str | None:
    """How one is cropped, None where it shows no picture."""
    found = next((kind for names, kind in KINDS.items() if all(hasattr(patch, name) for name in names)), None)
    reads = found is None and getattr(patch, "patch", None) is not None and kind_of(patch.patch) is not None
    return "beside" if reads else found


def owner(patch: Any) -> Any:
    """The object of a patch, which may be a method of it, after the kind of layer that it is for."""
    if isinstance(patch, tuple):
        patch = patch[-1]
    return patch.__self__ if isinstance(patch, MethodType) else patch


def shows_picture(patches: Patches) -> bool:
    """Whether one of them does."""
    return any(kind_of(owner(patch)) for listed in patches.values() for patch in listed)


def hints_of(patches: Patches) -> list[Tensor]:
    """Latents [B, C, h, w] of the pictures that patches hold so, which may be one for several."""
    owners = [owner(patch) for listed in patches.values() for patch in listed]
    return [getattr(each, HINT) for each in owners if kind_of(each) == "latents"]
