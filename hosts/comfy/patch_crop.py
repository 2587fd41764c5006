"""Hints that are patches of the model, as ControlNets of Z-Image and Qwen-Image are: each call's show the tile that the call is
about. A copy of a patch for a tile is kept, as the host keeps what one has encoded."""

from __future__ import annotations

import copy
from types import MethodType
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...tiling.canvas import cut
from ...tiling.plan import Box, TilePlan

Patches = dict[str, list[Any]]
Place = tuple[int, int, int, int]  # left, top, right and bottom of a tile in px
KINDS = {  # what a patch has by which it is known, and how it is cropped
    ("image", "encode_latent_cond", "encoded_image"): "_encoded",  # ControlNets of Z-Image and Qwen-Image
    ("image", "mask", "sigma_start"): "_pixels",  # LLLite of Anima
    ("hint_latent",): "_latents",  # SUPIR
    ("render_video", "prepared_render"): "_frame",  # Uni3C of Wan
}


def kind_of(patch: Any) -> str | None:
    """How one is cropped, None where it shows no picture."""
    found = next((kind for names, kind in KINDS.items() if all(hasattr(patch, name) for name in names)), None)
    reads = found is None and getattr(patch, "patch", None) is not None and kind_of(patch.patch) is not None
    return "_beside" if reads else found


def owner(patch: Any) -> Any:
    """The object of a patch, which may be a method of it, after the kind of layer that it is for."""
    if isinstance(patch, tuple):
        patch = patch[-1]
    return patch.__self__ if isinstance(patch, MethodType) else patch


class PatchCrop:
    """Crops them in one sampling run on a canvas. A picture is fitted to the canvas and encoded once, as the host would, and then
    cut; a patch that says nothing of a picture is the same for all tiles."""

    def __init__(self, plan: TilePlan) -> None:
        """plan: in px."""
        self.plan = plan
        self._whole: dict[tuple, Tensor] = {}
        self._tiles: dict[tuple, Any] = {}

    def __call__(self, patches: Patches, place: Place, device: torch.device) -> Patches:
        if self.plan.count == 1:
            return patches
        return {name: [self._patch(patch, place, device) for patch in listed] for name, listed in patches.items()}

    def _patch(self, patch: Any, place: Place, device: torch.device) -> Any:
        if isinstance(patch, tuple):
            return (*patch[:-1], self._patch(patch[-1], place, device))
        tile = self._tile(owner(patch), place, device)
        return MethodType(patch.__func__, tile) if isinstance(patch, MethodType) else tile

    def _tile(self, patch: Any, place: Place, device: torch.device) -> Any:
        key = (id(patch), place, device)
        if key not in self._tiles:
            kind = kind_of(patch)
            self._tiles[key] = tile = patch if kind is None else copy.copy(patch)
            if kind is not None:
                getattr(self, kind)(patch, tile, place, device)
        return self._tiles[key]

    def _encoded(self, patch: Any, tile: Any, place: Place, device: torch.device) -> None:
        left, top, right, bottom = place
        model, ratio = patch.model_patch.model, patch.vae.spacial_compression_encode()
        cells = self._cut(self._canvas(patch), place, self.plan.cell).to(device)
        if hasattr(model, "process_input_latent_image"):
            cells = model.process_input_latent_image(cells.clone())  # which writes into what it is given
        cell = self.plan.cell
        tile.encoded_image = cells
        tile.encoded_image_size = ((bottom - top) // cell * ratio, (right - left) // cell * ratio)

    def _pixels(self, patch: Any, tile: Any, place: Place, device: torch.device) -> None:
        tile.image = self._cut(self._fitted(patch.image.movedim(-1, 1), "bicubic"), place).movedim(1, -1)
        if patch.mask is not None:
            mask = patch.mask if patch.mask.ndim == 4 else patch.mask.unsqueeze(1)
            tile.mask = self._cut(self._fitted(mask.float(), "nearest-exact"), place)

    def _latents(self, patch: Any, tile: Any, place: Place, device: torch.device) -> None:
        cell = self.plan.cell
        height, width = (side * cell for side in patch.hint_latent.shape[-2:])
        if (height, width) != (self.plan.height, self.plan.width):
            name = type(patch).__name__.removesuffix("Patch")
            raise ValueError(
                f"the picture of {name} is {width} x {height} px, the canvas {self.plan.width} x "
                f"{self.plan.height}: connect the picture that was enlarged to the canvas"
            )
        tile.hint_latent = self._cut(patch.hint_latent, place, cell)

    def _frame(self, patch: Any, tile: Any, place: Place, device: torch.device) -> None:
        frame = self._fitted(patch.render_video[:1].movedim(-1, 1), "bilinear")  # the host takes as many as there are
        tile.render_video, tile.prepared_render = self._cut(frame, place).movedim(1, -1), None

    def _beside(self, patch: Any, tile: Any, place: Place, device: torch.device) -> None:
        """One that reads what another made of the picture."""
        tile.patch = self._tile(patch.patch, place, device)

    def _canvas(self, patch: Any) -> Tensor:
        """The latents [B, C, .., h, w] of its pictures, fitted to the canvas."""
        key = (id(patch), "encoded")
        if key not in self._whole:
            loaded = comfy.model_management.loaded_models(only_currently_used=True)
            images = [getattr(patch, name) for name in ("image", "inpaint_image") if hasattr(patch, name)]
            fitted = [image if image is None else self._fitted(image.movedim(-1, 1), "area") for image in images]
            self._whole[key] = patch.encode_latent_cond(
                *(None if image is None else image.movedim(1, -1) for image in fitted)
            )
            comfy.model_management.load_models_gpu(loaded)
        return self._whole[key]

    def _fitted(self, image: Tensor, algorithm: str) -> Tensor:
        """A picture [B, C, h, w] as the host fits it to the canvas."""
        return comfy.utils.common_upscale(image, self.plan.width, self.plan.height, algorithm, "center")

    def _cut(self, values: Tensor, place: Place, cell: int = 1) -> Tensor:
        left, top, right, bottom = (side // cell for side in place)
        return cut(values, Box(top, left, bottom - top, right - left))
