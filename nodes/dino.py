"""Nodes around the DINO encoder."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..dino.encode import EncodeSettings
from ..dino.views import pca_picture
from ..hosts.comfy.dino import dino_from_clip_vision, load_host_dino
from ..hosts.comfy.folders import model_files, model_state
from ..hosts.comfy.images import rgb, to_host
from . import sockets
from .sockets import number

CATEGORY = f"{sockets.CATEGORY}/DINO"


class LoadDino(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_LoadDino",
            display_name="Load DINO Model",
            category=CATEGORY,
            description="Loads a DINOv2 or DINOv3 vision transformer from models/dino or models/clip_vision.",
            search_aliases=["dinov2", "dinov3", "dino loader", "vision transformer"],
            inputs=[
                io.Combo.Input(
                    "dino_name",
                    options=model_files("dino", "clip_vision"),
                    tooltip="A .safetensors file of DINOv2 S/B/L/g (with or without registers) or DINOv3 S/S+/B/L/H+, "
                    "as transformers, Meta or timm names its tensors. Usual: DINOv2 base with registers.",
                ),
            ],
            outputs=[sockets.Dino.Output(display_name="dino", tooltip="The encoder.")],
        )

    @classmethod
    def execute(cls, dino_name) -> io.NodeOutput:
        return io.NodeOutput(load_host_dino(dino_name))

    @classmethod
    def fingerprint_inputs(cls, dino_name) -> list:
        return model_state(dino_name, "dino", "clip_vision")


class DinoFromClipVision(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_DinoFromClipVision",
            display_name="DINO from CLIP Vision",
            category=CATEGORY,
            description="Uses a DINO model that ComfyUI's Load CLIP Vision has loaded (DINOv2 L/g, DINOv3 L/H+).",
            search_aliases=["dinov2", "dinov3", "clip vision to dino"],
            inputs=[
                io.ClipVision.Input(
                    "clip_vision", tooltip="A CLIP_VISION whose file is a DINO model, not CLIP or SigLIP."
                ),
            ],
            outputs=[sockets.Dino.Output(display_name="dino", tooltip="The encoder.")],
        )

    @classmethod
    def execute(cls, clip_vision) -> io.NodeOutput:
        return io.NodeOutput(dino_from_clip_vision(clip_vision))


class ExtractPatches(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_ExtractPatches",
            display_name="Extract DINO Patches",
            category=CATEGORY,
            description="Encodes the whole picture once; every tile later takes its own region of these features.",
            search_aliases=["dinov2 features", "dino encode", "patch embeddings", "vision encoder"],
            inputs=[
                sockets.Dino.Input("dino", tooltip="From Load DINO Model or DINO from CLIP Vision."),
                io.Image.Input("image", tooltip="The whole picture before it is upscaled, any size and aspect."),
                io.String.Input(
                    "layers",
                    default="2/3",
                    tooltip="Which blocks: a fraction of the depth (usual: 2/3), last, mean, or numbers such as 8 or 9,18,24 "
                    "whose normalised tokens are averaged. An adapter needs the layers that it was trained on.",
                ),
                number(
                    "side",
                    (0, 0, 4096, 2),
                    "Long side in px at which the picture is encoded. 0: the model's own, 1036 (v2) or 1024 (v3). "
                    "Usual: 0, or 518 for speed.",
                ),
                number(
                    "crops",
                    (1, 1, 2),
                    "Crops per side: 1 encodes the whole picture (usual), 2 averages it with a 2x2 grid of crops: "
                    "finer, five times the time. An adapter needs what it was trained on.",
                ),
                sockets.scales(),
            ],
            outputs=[sockets.Features.Output(display_name="features", tooltip="Patch features and class token.")],
        )

    @classmethod
    def execute(cls, dino, image, layers, side, crops, scales="averaged") -> io.NodeOutput:
        settings = EncodeSettings(side=side, layers=layers, crops=crops, scales=scales)
        return io.NodeOutput(dino.encode(rgb(image).movedim(-1, 1), settings=settings, told=True))


class PreviewPatches(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_PreviewPatches",
            display_name="Preview DINO Patches",
            category=CATEGORY,
            description="Shows the first three principal components of the features as red, green and blue: "
            "what has one colour looks alike to DINO.",
            search_aliases=["dinov2 pca", "show features", "feature map"],
            inputs=[
                sockets.Features.Input("features", tooltip="From Extract DINO Patches."),
                sockets.Features.Input(
                    "like",
                    optional=True,
                    tooltip="Features of the same DINO and layers whose colours are used, so that two previews can be compared: "
                    "restored ones beside those before. Usual: none.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The picture, in the size of the encoded image.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, features, like=None) -> io.NodeOutput:
        height, width = features.image_size
        picture = to_host(pca_picture(features, height=height, width=width, like=like))
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))
