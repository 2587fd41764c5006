"""Nodes that measure a result."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..dino.fidelity import heat_map
from ..files.pixels import resize
from ..hosts.comfy.images import rgb, to_host
from ..tiling.pieces import covered
from ..tiling.seams import measure_seams
from ..upscaling.meters import describe_fidelity, describe_seams, measure_fidelity
from . import sockets

CATEGORY = f"{sockets.CATEGORY}/Meters"


class DinoFidelity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_DinoFidelity",
            display_name="DINO Fidelity",
            category=CATEGORY,
            description="Compares a result with its source in DINO's eyes, patch by patch: what was invented shows.",
            search_aliases=["fidelity", "compare images", "hallucination", "image similarity", "heat map"],
            inputs=[
                sockets.Dino.Input("dino", tooltip="From Load DINO Model or DINO from CLIP Vision."),
                io.Image.Input("source", tooltip="The picture before it was upscaled, any size."),
                io.Image.Input("result", tooltip="What was made of it: as many pictures, of the same proportions."),
            ],
            outputs=[
                io.Float.Output(
                    display_name="score",
                    tooltip="Mean cosine of the patches of result and source, -1 to 1; 1 is the source itself.",
                ),
                io.Float.Output(display_name="worst", tooltip="The cosine that 5 % of the patches do not reach."),
                io.Image.Output(
                    display_name="heat_map",
                    tooltip="1 - cosine in the result's size: black as the source, red and yellow to white unlike it.",
                ),
                io.String.Output(display_name="summary", tooltip="Both figures beside those of plain enlargement."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, dino, source, result) -> io.NodeOutput:
        small, large = (
            rgb(image, name=name).movedim(-1, 1).cpu() for name, image in (("source", source), ("result", result))
        )
        found = measure_fidelity(dino, large, small)
        heat = to_host(heat_map(found.result, height=large.shape[2], width=large.shape[3]).movedim(1, -1))
        figures = found.summary()
        return io.NodeOutput(
            figures["score"], figures["worst"], heat, describe_fidelity(found), ui=ui.PreviewImage(heat, cls=cls)
        )


class SeamScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_SeamScore",
            display_name="Seam Score",
            category=CATEGORY,
            description="Tells how far the borders of tiles stand out of a picture. Needs no model.",
            search_aliases=["seams", "tile borders", "seam detection"],
            inputs=[
                io.Image.Input("image", tooltip="The picture that was drawn in tiles."),
                sockets.Plan.Input("plan", tooltip="From Plan Tiles, made for the size of this picture."),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="What was drawn anew, any size of the same proportions: its own edges are then no seams.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    display_name="score",
                    tooltip="Mean log ratio of the step across a border to those beside it; 0: no seam, 0.7: twice as high.",
                ),
                io.Float.Output(display_name="rows", tooltip="The same of borders between rows of tiles."),
                io.Float.Output(display_name="columns", tooltip="The same of borders between columns."),
                io.Float.Output(
                    display_name="step", tooltip="The highest step at a border, 0 to 1; 0.004 is one level of 8 bits."
                ),
                io.String.Output(display_name="summary", tooltip="The figures, and which border is the worst."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image, plan, source=None) -> io.NodeOutput:
        pixels = rgb(image).movedim(-1, 1).cpu()
        if source is not None:
            source = rgb(source, name="source").movedim(-1, 1).cpu()
            source = covered(resize(source, height=pixels.shape[2], width=pixels.shape[3]), plan)
        found = measure_seams(covered(pixels, plan), plan, source=source)
        text = describe_seams(found)
        return io.NodeOutput(*found.summary().values(), text, ui=ui.PreviewText(text))
