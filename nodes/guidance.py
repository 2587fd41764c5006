"""Nodes that guide any model by its estimates of the clean picture: no adapter, no training."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..dino.guidance.x0 import GuidanceSettings
from ..hosts.comfy.estimates import Guidance, guide_model
from ..hosts.comfy.images import rgb
from . import sockets
from .sockets import number

CATEGORY = f"{sockets.CATEGORY}/Guidance"
IMAGE = "The whole picture before it is upscaled; the latent that is sampled must show all of it."
DECODER = (
    "The model's VAE, or the small one of its latents, which is much faster: taef1 for FLUX.1 and Z-Image, taef2 for FLUX.2, "
    "lighttaew2_1 for Qwen-Image and Krea 2."
)


def when() -> list[io.Input]:
    """When guidance acts."""
    return [
        number(
            "window_start",
            (1.0, 0.0, 1.0, 0.01),
            "Share of the first noise level from which it acts. Usual: 1, from the first step.",
        ),
        number(
            "window_end",
            (0.05, 0.0, 1.0, 0.01),
            "Share of the first noise level down to which it acts. Usual: 0.05, to almost the last step.",
        ),
        number("every", (1, 1, 100), "Acts at every n-th step, n times as far. Usual: 1; 2 for half the time."),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="Where it acts, over the whole picture: 1 fully, 0 not at all. Without: everywhere.",
        ),
    ]


def guided(
    model: Any, image: Any, decoder: Any, settings: GuidanceSettings, *, dino: Any = None, mask: Any = None
) -> Any:
    pixels = rgb(image).movedim(-1, 1)
    mask = sockets.mask_over(mask, *pixels.shape[-2:], name="guidance" if settings.dino else "anchor")
    guidance = Guidance(pixels, decoder, settings, encoder=dino, mask=None if mask is None else mask[None, None])
    return model if settings.off else guide_model(model, guidance)


class SourceAnchor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_SourceAnchor",
            display_name="Source Anchor",
            category=CATEGORY,
            description="Keeps what is sampled true to the source at the source's own resolution, at every step. Needs no DINO.",
            search_aliases=["lr consistency", "back projection", "fidelity", "guidance", "super resolution"],
            inputs=[
                io.Model.Input("model", tooltip="Any model of pictures, tiled or not."),
                io.Image.Input("image", tooltip=IMAGE),
                io.Vae.Input("decoder", tooltip=DECODER),
                number(
                    "strength",
                    (1.0, 0.0, 1.0, 0.05),
                    "0 is off. Usual: 1; less for a source with noise or JPEG blocks.",
                ),
                *when(),
            ],
            outputs=[io.Model.Output(tooltip="The model with its anchor.")],
        )

    @classmethod
    def execute(
        cls, model, image, decoder, strength, window_start, window_end, every, mask=None
    ) -> io.NodeOutput:  # fmt: skip
        settings = GuidanceSettings(anchor=strength, low=window_end, high=window_start, every=every)
        return io.NodeOutput(guided(model, image, decoder, settings, mask=mask))


class DinoGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_DinoGuidance",
            display_name="DINO Guidance",
            category=CATEGORY,
            description="Leads what is sampled to where DINO sees the same as in the source, at every step, with stock weights. "
            "Best where a Source Anchor is off or weak.",
            search_aliases=["dino loss", "training free", "semantic guidance", "dinov2"],
            inputs=[
                io.Model.Input("model", tooltip="Any model of pictures, tiled or not; with or without a DINO adapter."),
                sockets.Dino.Input("dino", tooltip="From Load DINO Model."),
                io.Image.Input("image", tooltip=IMAGE),
                io.Vae.Input("decoder", tooltip=DECODER),
                number("strength", (1.0, 0.0, 10.0, 0.05), "0 is off. Usual: 1 to 2."),
                *when(),
            ],
            outputs=[io.Model.Output(tooltip="The guided model.")],
        )

    @classmethod
    def execute(
        cls, model, dino, image, decoder, strength, window_start, window_end, every, mask=None
    ) -> io.NodeOutput:  # fmt: skip
        settings = GuidanceSettings(anchor=0.0, dino=strength, low=window_end, high=window_start, every=every)
        return io.NodeOutput(guided(model, image, decoder, settings, dino=dino, mask=mask))
