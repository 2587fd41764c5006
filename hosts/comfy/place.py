"""A CONDITIONING of a whole picture, for a part of it that is sampled as a canvas of its own."""

from __future__ import annotations

from typing import Any

import torch
from comfy.samplers import resolve_areas_and_cond_masks_multidim
from torch import Tensor

from ...tiling.canvas import cut
from ...tiling.plan import Box, TilePlan
from .areas import area_weight, reached
from .control import HintCrop
from .crop import crop_reference
from .estimates import check_unguided
from .patch_kinds import shows_picture
from .shown import COVERS, MASK, REDUX, weigh

WHOLE = (  # of the whole canvas, or not meant for parts of one
    *("gligen", "default", "concat_latent_image", "concat_image", "noise_concat", "image_cond", "lq_latent"),
    *(
        "stable_cascade_prior",
        "vace_frames",
        "control_video",
        "camera_conditions",
        "pose_video_latent",
        "time_dim_concat",
    ),
)

AREA = ("area", "mask", "set_area_to_bounds")  # what the host resolves on the canvas


class PlaceCrop:
    """Crops the conditionings of one run to places on a canvas; hints are fitted to it once. plan: the canvas in latent cells."""

    def __init__(self, plan: TilePlan) -> None:
        self.plan, self.crop_control = plan, HintCrop()

    def __call__(self, conditioning: list, box: Box) -> list:
        """Those that reach the place; ValueError for what cannot be cropped."""
        return [cropped for text, said in conditioning if (cropped := self._crop(text, said, box)) is not None]

    def _crop(self, text: Tensor, said: dict[str, Any], box: Box) -> list | None:
        for name in WHOLE:
            if name in said:
                raise ValueError(
                    f"a conditioning with {name!r} cannot be sampled one tile after the other: use DINO Tiled Upscale, or "
                    "connect one without it"
                )
        said = dict(said)
        area, mask = self._resolved(said)
        part = reached(area, box, self.plan, whole=not {"control", "reference_latents", MASK}.isdisjoint(said))
        if part is None:
            return None
        if area is not None or mask is not None:
            weight = self._weight(area, mask, box)
            if not bool(cut(weight, part.moved(-box.top, -box.left)).any()):
                return None
            said["mask"] = weight
        if part != box:
            said["area"] = (part.height, part.width, part.top - box.top, part.left - box.left)
        if "control" in said:
            said["control"] = self.crop_control(said["control"], box, self.plan)
        if "reference_latents" in said:
            place = (box.height, box.width, box.top, box.left)
            said["reference_latents"] = [crop_reference(each, place, self.plan) for each in said["reference_latents"]]
        return self._shown(text, said, part)

    def _resolved(self, said: dict[str, Any]) -> tuple[tuple[int, ...] | None, Tensor | None]:
        """Area in latent cells and mask [n, h, w] on the canvas, as the host makes them of shares and of a mask's bounds."""
        conds = [{name: said.pop(name) for name in AREA if name in said}]
        resolve_areas_and_cond_masks_multidim(conds, (self.plan.height, self.plan.width), "cpu")
        return conds[0].get("area"), conds[0].get("mask")

    def _weight(self, area: tuple[int, ...] | None, mask: Tensor | None, box: Box) -> Tensor:
        """A mask [1 or B, h, w] of the place for an area and a mask of the whole."""
        weight = torch.ones(1, box.height, box.width)
        if area is not None:
            weight = weight * area_weight(area, box, self.plan, soft=mask is None)
        if mask is not None:
            weight = weight * cut(mask.reshape(-1, *mask.shape[-2:]), box).to(weight)
        return weight

    def _shown(self, text: Tensor, said: dict[str, Any], box: Box) -> list:
        """With Redux's tokens of the place, in the stead of those that ``still_shown`` has looked at."""
        fractions = box.fractions(*said.pop(COVERS, (self.plan.height, self.plan.width)))
        for shown in said.pop(REDUX, ()):
            region = shown.redux.region(fractions)
            text = text.clone()
            text[:, shown.place] = region.tokens.to(text)
            if MASK in said:
                said[MASK] = weigh(said[MASK], region.weights, shown.place)
        return [text, said]


def check_patches(model: Any) -> None:
    """ValueError for a model that is patched with what shows the whole picture, which a part of it is not given."""
    check_unguided(model)
    patches = model.model_options.get("transformer_options", {}).get("patches", {})
    if shows_picture(patches):
        raise ValueError(
            "the model has a ControlNet that is a patch of it, which shows the whole picture: use DINO Tiled Upscale, or a model "
            "without that patch"
        )
