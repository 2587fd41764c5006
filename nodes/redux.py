"""Nodes around FLUX.1 Redux: shown to each tile on stock FLUX weights, and as what an adapter is fitted to."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..flux_patch.checkpoint import save_adapter
from ..flux_patch.families import MOST_REDUX
from ..flux_patch.redux import ReduxTokens, picture_tokens
from ..flux_patch.schedule import Strength
from ..hosts.comfy.adapter import load_host_adapter
from ..hosts.comfy.folders import adapter_name, adapter_path, note_written, picture_folder, temporary_folder
from ..hosts.comfy.images import rgb
from ..hosts.comfy.model import flux_geometry
from ..hosts.comfy.progress import HostProgress
from ..hosts.comfy.redux import HostTeacher
from ..hosts.comfy.shown import show
from . import sockets
from .learning import CATEGORY, LearningNode
from .sockets import SEED, layers, number, patches_file, pictures

SIGLIP = "SigLIP, from Load CLIP Vision: the one Redux was made for."
REDUX = "FLUX.1 Redux, from Load Style Model."


class ReduxForTiles(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_ReduxForTiles",
            display_name="Redux for Tiles",
            category=f"{sockets.CATEGORY}/FLUX",
            description="Tells FLUX.1 what is in the picture, by Redux's tokens beside the text: each tile those of its own "
            "region. Needs no adapter.",
            search_aliases=["redux", "style model", "image prompt", "caption per tile", "ip adapter"],
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="A prompt, or Empty FLUX Conditioning; the negative stays without."
                ),
                io.Image.Input(
                    "image", tooltip="The whole picture, before it is enlarged; Redux sees it squeezed to a square."
                ),
                io.ClipVision.Input("clip_vision", tooltip=SIGLIP),
                io.StyleModel.Input("style_model", tooltip=REDUX),
                number(
                    "strength",
                    (1.0, 0.0, 2.0, 0.01),
                    "Factor on the attention that the tokens get, 0 to 2: 0 is off, 1 as Apply Style Model. Usual: 0.5 to 1.",
                ),
                number(
                    "grid",
                    (14, 1, MOST_REDUX),
                    "Tokens per side of a tile; Redux has 27 for a picture. More act more strongly. Usual: 9 to 27.",
                ),
                number(
                    "crops",
                    (1, 1, 2),
                    "1: the whole picture. 2: with a 2 x 2 grid of crops, for detail. Usual: 1; 2 for scale 4.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="What Redux tells of, over the whole picture: 1 fully, 0 not at all."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="positive",
                    tooltip="For Tile Model, Tiled Sampler or DINO Tiled Upscale, or a sampler without tiles.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, positive, image, clip_vision, style_model, strength, grid, crops, mask=None
    ) -> io.NodeOutput:  # fmt: skip
        redux, pixels = HostTeacher(clip_vision, style_model), rgb(image).movedim(-1, 1)
        settings = Strength(strength, mask=sockets.mask_over(mask, *pixels.shape[-2:], name="Redux"))
        if strength == 0:
            return io.NodeOutput(positive)
        return io.NodeOutput(show(positive, ReduxTokens(picture_tokens(redux, pixels, crops=crops), grid, settings)))


class FitProjection(LearningNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_FitProjection",
            display_name="Fit DINO Projection",
            category=CATEGORY,
            description="Learns to turn DINO's patches into the text tokens of FLUX.1 Redux, on a folder of pictures. "
            "FLUX is not run, so it takes minutes.",
            search_aliases=["fit redux", "dino redux"],
            inputs=[
                io.Model.Input("model", tooltip="The FLUX.1 that the adapter is for; only its shape is read."),
                sockets.Dino.Input("dino", tooltip="The DINO model that the adapter will need."),
                io.ClipVision.Input("clip_vision", tooltip=SIGLIP),
                io.StyleModel.Input("style_model", tooltip=REDUX),
                pictures("At least 5; usual: thousands."),
                patches_file("dinotile/redux"),
                layers(),
                number(
                    "side",
                    (0, 0, 4096, 2),
                    "Long side in px at which DINO sees the pictures, 0: its own. Usual: 0, or 518 for speed.",
                ),
                number("grid", (9, 1, 27), "Text tokens per side of a tile; Redux has 27. Usual: 4 to 14."),
                io.Boolean.Input(
                    "hidden_layer",
                    default=False,
                    tooltip="Goes on from the closed-form solution with a hidden layer; kept only if it is better on "
                    "pictures that it did not learn from. Usual: off; on for thousands of pictures.",
                ),
                number("epochs", (20, 1, 1000), "Passes over the pictures for the hidden layer, at most. Usual: 20."),
                number(
                    "held_out",
                    (0.1, 0.01, 0.5, 0.01),
                    "Share of the pictures, 0 to 0.5, that only the report sees. Usual: 0.1.",
                ),
                number("seed", SEED, "Seed of the choice of held-out pictures and of the hidden layer. Usual: 0."),
            ],
            outputs=[
                sockets.Adapter.Output(display_name="adapter", tooltip="The fitted adapter, with context tokens only."),
                io.String.Output(
                    display_name="report", tooltip="Held-out cosines: own features, another picture's, and the mean."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model, dino, clip_vision, style_model, folder, filename_prefix, layers, side, grid, hidden_layer, epochs,
        held_out, seed,
    ) -> io.NodeOutput:  # fmt: skip
        from ..training.redux.fit import FitSettings, fit_redux

        path = adapter_path(filename_prefix, below="models/model_patches")
        adapter, report = fit_redux(
            picture_folder(folder),
            encoder=dino,
            teacher=HostTeacher(clip_vision, style_model),
            geometry=flux_geometry(model),
            settings=FitSettings(layers, side, grid, held_out, hidden_layer, epochs, seed),
            folder=temporary_folder(),
            progress=HostProgress(),
        )
        save_adapter(adapter, path, trained=True)
        note_written(filename_prefix, path)
        text = "\n".join(report.lines())
        return io.NodeOutput(load_host_adapter(adapter_name(path)), text, ui=ui.PreviewText(text))
