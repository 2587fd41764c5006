"""Hints that are patches of the model, as ControlNets of Z-Image and Qwen-Image are: each call's show the tile that the call is
about."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...tiling.canvas import cut
from ...tiling.plan import Box, TilePlan
from .patch_kinds import Patches, hints_of, kind_of, owner
from .supir import lacks, padded

Place = tuple[int, int, int, int]  # left, top, right and bottom of a tile in px


class PatchCrop:
    """Crops them in one sampling run on a canvas. A picture is fitted to the canvas and encoded once, as the host would, and then
    cut. A patch keeps much of what it makes in a call, so its copy for a tile lives no longer than the call."""

    def __init__(self, plan: TilePlan) -> None:
        """plan: in px."""
        self.plan = plan
        self._whole: dict[tuple[int, str], tuple[Any, Tensor]] = {}  # with their patches, so that ids stay theirs

    def __call__(self, patches: Patches, place: Place, device: torch.device) -> Patches:
        if place == (0, 0, self.plan.width, self.plan.height) and not any(
            lacks(hint, self.plan) for hint in hints_of(patches)
        ):
            return patches
        call = Call(self, place, device)
        return {name: [call.patch(patch) for patch in listed] for name, listed in patches.items()}

    def encoded(self, patch: Any, tile: Any, call: Call) -> None:
        left, top, right, bottom = call.place
        model, ratio = patch.model_patch.model, patch.vae.spacial_compression_encode()
        cells = self._cut(self._once(patch, "encoded", self._canvas), call.place, self.plan.cell).to(call.device)
        if hasattr(model, "process_input_latent_image"):
            cells = model.process_input_latent_image(cells.clone())  # which writes into what it is given
        cell = self.plan.cell
        tile.encoded_image = cells
        tile.encoded_image_size = ((bottom - top) // cell * ratio, (right - left) // cell * ratio)

    def pixels(self, patch: Any, tile: Any, call: Call) -> None:
        image = self._once(patch, "image", lambda patch: self._fitted(patch.image.movedim(-1, 1), "bicubic"))
        tile.image = self._cut(image, call.place).movedim(1, -1)
        if patch.mask is not None:
            tile.mask = self._cut(self._once(patch, "mask", self._mask), call.place)

    def latents(self, patch: Any, tile: Any, call: Call) -> None:
        tile.hint_latent = self._cut(self._once(patch, "latents", self._latents), call.place, self.plan.cell)

    def frame(self, patch: Any, tile: Any, call: Call) -> None:
        cells = (1, self.plan.height // self.plan.cell, self.plan.width // self.plan.cell)
        whole = self._once(patch, "frame", lambda patch: patch.encode_render_video(cells))
        tile.prepared_render = self._cut(whole, call.place, self.plan.cell)

    def beside(self, patch: Any, tile: Any, call: Call) -> None:
        """One that reads what another made of the picture."""
        tile.patch = call.tile(patch.patch)

    def _once(self, patch: Any, what: str, make: Callable[[Any], Tensor]) -> Tensor:
        """What a patch shows, of the whole canvas."""
        key = (id(patch), what)
        if key not in self._whole:
            self._whole[key] = patch, make(patch)
        return self._whole[key][1]

    def _canvas(self, patch: Any) -> Tensor:
        """The latents [B, C, .., h, w] of its pictures, fitted to the canvas."""
        loaded = comfy.model_management.loaded_models(only_currently_used=True)
        images = [getattr(patch, name) for name in ("image", "inpaint_image") if hasattr(patch, name)]
        fitted = [image if image is None else self._fitted(image.movedim(-1, 1), "area") for image in images]
        latents = patch.encode_latent_cond(*(None if image is None else image.movedim(1, -1) for image in fitted))
        comfy.model_management.load_models_gpu(loaded)
        return latents

    def _latents(self, patch: Any) -> Tensor:
        height, width = (side * self.plan.cell for side in patch.hint_latent.shape[-2:])
        if (height, width) == (self.plan.height, self.plan.width):
            return patch.hint_latent
        if lacks(patch.hint_latent, self.plan):
            return padded(patch.hint_latent, self.plan)
        name = type(patch).__name__.removesuffix("Patch")
        raise ValueError(
            f"the picture of {name} is {width} x {height} px, the canvas {self.plan.width} x "
            f"{self.plan.height}: connect the picture that was enlarged to the canvas"
        )

    def _mask(self, patch: Any) -> Tensor:
        mask = patch.mask if patch.mask.ndim == 4 else patch.mask.unsqueeze(1)
        return self._fitted(mask.float(), "nearest-exact")

    def _fitted(self, image: Tensor, algorithm: str) -> Tensor:
        """A picture [B, C, h, w] as the host fits it to the canvas."""
        return comfy.utils.common_upscale(image, self.plan.width, self.plan.height, algorithm, "center")

    def _cut(self, values: Tensor, place: Place, cell: int = 1) -> Tensor:
        left, top, right, bottom = (side // cell for side in place)
        return cut(values, Box(top, left, bottom - top, right - left))


@dataclass
class Call:
    """The patches of one call, and so of one tile. made: their copies, by id."""

    crop: PatchCrop
    place: Place
    device: torch.device
    made: dict[int, Any] = field(default_factory=dict)

    def patch(self, patch: Any) -> Any:
        if isinstance(patch, tuple):
            return (*patch[:-1], self.patch(patch[-1]))
        tile = self.tile(owner(patch))
        return MethodType(patch.__func__, tile) if isinstance(patch, MethodType) else tile

    def tile(self, patch: Any) -> Any:
        kind = kind_of(patch)
        if kind is None:
            return patch
        if id(patch) not in self.made:
            self.made[id(patch)] = copy.copy(patch)
            getattr(self.crop, kind)(patch, self.made[id(patch)], self)
        return self.made[id(patch)]
