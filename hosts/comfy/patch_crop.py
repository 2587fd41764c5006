"""ControlNets that are patches of the model, as Z-Image's and Qwen-Image's: each call's show the tile that the call is about."""

from __future__ import annotations

import copy
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...tiling.canvas import cut
from ...tiling.plan import Box, TilePlan

Patches = dict[str, list[Any]]


def shows_picture(patch: Any) -> bool:
    """Whether it is one of the host's, which encode a picture to the size of what they see."""
    return all(hasattr(patch, name) for name in ("image", "encode_latent_cond", "encoded_image", "encoded_image_size"))


class PatchCrop:
    """Crops them in one sampling run on a canvas. Each is encoded once for the canvas, as the host would, and then cut. Their
    copies for a tile are kept, as the host keeps what one has encoded."""

    def __init__(self, plan: TilePlan) -> None:
        """plan: in px."""
        self.plan = plan
        self._coded: dict[int, Tensor] = {}
        self._tiles: dict[tuple, Any] = {}

    def __call__(self, patches: Patches, place: tuple[int, int, int, int], device: torch.device) -> Patches:
        """place: left, top, right and bottom of the tile in px."""
        if self.plan.count == 1:
            return patches
        return {
            name: [self._tile(patch, place, device) if shows_picture(patch) else patch for patch in listed]
            for name, listed in patches.items()
        }

    def _tile(self, patch: Any, place: tuple[int, int, int, int], device: torch.device) -> Any:
        key = (id(patch), place, device)
        if key not in self._tiles:
            left, top, right, bottom = (side // self.plan.cell for side in place)
            tile, model = copy.copy(patch), patch.model_patch.model
            cells = cut(self._canvas(patch), Box(top, left, bottom - top, right - left)).to(device)
            if hasattr(model, "process_input_latent_image"):
                cells = model.process_input_latent_image(cells.clone())  # which writes into what it is given
            ratio = patch.vae.spacial_compression_encode()
            tile.encoded_image, tile.encoded_image_size = cells, ((bottom - top) * ratio, (right - left) * ratio)
            self._tiles[key] = tile
        return self._tiles[key]

    def _canvas(self, patch: Any) -> Tensor:
        """The latents [B, C, .., h, w] of its pictures, fitted to the canvas."""
        if id(patch) not in self._coded:
            loaded = comfy.model_management.loaded_models(only_currently_used=True)
            names = [name for name in ("image", "inpaint_image") if hasattr(patch, name)]
            self._coded[id(patch)] = patch.encode_latent_cond(*(self._fitted(getattr(patch, name)) for name in names))
            comfy.model_management.load_models_gpu(loaded)
        return self._coded[id(patch)]

    def _fitted(self, image: Tensor | None) -> Tensor | None:
        if image is None:
            return None
        size = self.plan.width, self.plan.height
        return comfy.utils.common_upscale(image.movedim(-1, 1), *size, "area", "center").movedim(1, -1)
