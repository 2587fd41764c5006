"""Nodes that plan tiles and sample by them."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..flux_patch.families import FLUX1
from ..hosts.comfy.images import rgb, to_host
from ..hosts.comfy.latents import latents_of
from ..hosts.comfy.model import tile_model
from ..hosts.comfy.noise import PlacedNoise
from ..hosts.comfy.progress import HostProgress
from ..hosts.comfy.sampling import run_sampler, tiled_guider
from ..tiling.pieces import merge, split
from ..tiling.preview import describe_plan, draw_plan
from ..upscaling.limits import check_tiles
from . import sockets
from .sockets import number, problem

CATEGORY = f"{sockets.CATEGORY}/Tiles"


class PlanTiles(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_PlanTiles",
            display_name="Plan Tiles",
            category=CATEGORY,
            description="Covers a picture of the given size with equal, evenly spread tiles, on the grid of FLUX.1 or of any "
            "other model that is connected.",
            search_aliases=["tile", "tile size", "tile grid", "overlap"],
            inputs=[
                number(
                    "width",
                    (2048, 16, 65536, 1),
                    "Width in px of the picture that is sampled: connect Get Image Size. Usual: 2048 to 8192.",
                ),
                number(
                    "height", (2048, 16, 65536, 1), "Height in px of the picture that is sampled. Usual: 2048 to 8192."
                ),
                sockets.tile(),
                sockets.overlap(
                    "Least overlap of neighbours in px, smaller than the tile. Usual: 128; demo models: 32."
                ),
                sockets.tile_fit(),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The one that is sampled: any model of pictures, for tiles on its own grid. Without: FLUX.1 and all "
                    "with the same grid, as Z-Image, Qwen-Image, Krea 2, SD 3 and Chroma.",
                ),
            ],
            outputs=[
                sockets.Plan.Output(display_name="plan", tooltip="For Tile Model, Tiled Sampler and Preview Tiles."),
                io.Int.Output(display_name="tiles", tooltip="How many tiles."),
                io.String.Output(display_name="summary", tooltip="Sizes, and sampled over output pixels, in one line."),
            ],
        )

    @classmethod
    def validate_inputs(cls, tile, overlap) -> bool | str:
        return problem(check_tiles, tile, overlap)

    @classmethod
    def execute(cls, width, height, tile, overlap, tile_fit="balanced", model=None) -> io.NodeOutput:
        latents = FLUX1 if model is None else latents_of(model)
        cell = latents.cell
        if min(height, width) < cell:
            raise ValueError(
                f"the picture is {width} x {height} px, less than a latent cell of {cell} px: connect a larger one"
            )
        height, width = (side // cell * cell for side in (height, width))  # VAE Encode crops to whole cells
        plan = latents.plan_tiles(height, width, tile=tile, overlap=overlap, fit=tile_fit)
        return io.NodeOutput(plan, plan.count, describe_plan(plan))


class PreviewTiles(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_PreviewTiles",
            display_name="Preview Tiles",
            category=CATEGORY,
            description="Draws the tiles on a picture; overlaps are tinted.",
            search_aliases=["show tiles", "tile grid", "draw tiles"],
            inputs=[
                sockets.Plan.Input("plan", tooltip="From Plan Tiles."),
                io.Image.Input("image", tooltip="The picture, before or after upscaling."),
            ],
            outputs=[io.Image.Output(tooltip="The picture with its tiles.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, plan, image) -> io.NodeOutput:
        picture = to_host(draw_plan(rgb(image)[0], plan, progress=HostProgress())[None])
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))


class SplitByPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_SplitByPlan",
            display_name="Split by Plan",
            category=CATEGORY,
            description="Cuts a picture into the tiles of a plan, as a list: to look at them, or to edit and redo single ones.",
            search_aliases=["split image", "tile image", "image to tiles", "crop tiles"],
            inputs=[
                io.Image.Input("image", tooltip="The picture that the plan was made for; alpha is dropped."),
                sockets.Plan.Input("plan", tooltip="From Plan Tiles, made for the size of this picture."),
            ],
            outputs=[
                io.Image.Output(display_name="tiles", is_output_list=True, tooltip="Row by row, all of one size."),
                sockets.Box.Output(display_name="boxes", is_output_list=True, tooltip="Where each lies, in px."),
            ],
        )

    @classmethod
    def execute(cls, image, plan) -> io.NodeOutput:
        tiles, boxes = split(rgb(image).movedim(-1, 1), plan)
        told = [{"x": box.left, "y": box.top, "width": box.width, "height": box.height} for box in boxes]
        return io.NodeOutput([to_host(tile.movedim(1, -1).contiguous()) for tile in tiles], told)


class MergeByPlan(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_MergeByPlan",
            display_name="Merge by Plan",
            category=CATEGORY,
            description="Joins the tiles of a plan, which fade into each other over their overlaps. Tiles that nobody changed "
            "give the picture that they were cut from.",
            search_aliases=["merge tiles", "untile", "tiles to image", "stitch"],
            inputs=[
                io.Image.Input(
                    "tiles",
                    tooltip="All tiles of the plan in their order, as a list or a batch; all in the plan's size, or all in one "
                    "whole multiple of it, by which the picture grows.",
                ),
                sockets.Plan.Input("plan", tooltip="The one that they were cut by."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that was split (enlarged, where the tiles are): its last few px beyond the plan stay. "
                    "Needed where a side is no multiple of 8.",
                ),
            ],
            outputs=[io.Image.Output(tooltip="The picture.")],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, tiles, plan, image=None) -> io.NodeOutput:
        pictures = [picture for tile in tiles for picture in rgb(tile, name="tiles").movedim(-1, 1)]
        per_tile = max(1, len(pictures) // plan[0].count)
        tiles = [torch.stack(pictures[at : at + per_tile]) for at in range(0, len(pictures), per_tile)]
        around = None if image is None else rgb(image[0]).movedim(-1, 1)
        merged = merge(tiles, plan[0], around=around, progress=HostProgress())
        return io.NodeOutput(to_host(merged.movedim(1, -1)))


class TileModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_TileModel",
            display_name="Tile Model",
            category=CATEGORY,
            description="Makes any sampler run this model tile by tile: all tiles in every step, on one canvas with one noise.",
            search_aliases=["tiled diffusion", "multidiffusion", "mixture of diffusers", "tile upscale"],
            inputs=[
                io.Model.Input("model", tooltip="Any model of pictures; FLUX patched with DINO or not."),
                sockets.Plan.Input("plan", tooltip="From Plan Tiles, made for the size of the latent that is sampled."),
                sockets.moving(),
            ],
            outputs=[io.Model.Output(tooltip="For KSampler, SamplerCustom, a guider, ...")],
        )

    @classmethod
    def execute(cls, model, plan, moving=False) -> io.NodeOutput:
        return io.NodeOutput(tile_model(model, plan, moving=moving))


class TiledSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_TiledSampler",
            display_name="Tiled Sampler",
            category=CATEGORY,
            description="SamplerCustomAdvanced over tiles: all tiles in every step, on one canvas with one noise.",
            search_aliases=["tiled ksampler", "tiled diffusion", "multidiffusion", "ultimate sd upscale"],
            inputs=[
                io.Noise.Input("noise", tooltip="One noise for the whole canvas."),
                io.Guider.Input("guider", tooltip="A guider over any model of pictures that is not tiled yet."),
                io.Sampler.Input("sampler", tooltip="Any sampler. Usual: euler."),
                io.Sigmas.Input(
                    "sigmas", tooltip="Noise levels, falling. Usual: a BasicScheduler at denoise 0.2 to 0.5."
                ),
                io.Latent.Input("latent_image", tooltip="The encoded, already enlarged picture."),
                sockets.Plan.Input("plan", tooltip="From Plan Tiles, made for the size of this latent."),
                sockets.moving(),
            ],
            outputs=[
                io.Latent.Output(display_name="output", tooltip="After the last step."),
                io.Latent.Output(
                    display_name="denoised_output", tooltip="The model's last estimate of the finished latent."
                ),
            ],
        )

    @classmethod
    def execute(cls, noise, guider, sampler, sigmas, latent_image, plan, moving=False) -> io.NodeOutput:
        guider = tiled_guider(guider, plan, moving=moving)
        return io.NodeOutput(*run_sampler(noise, guider, sampler, sigmas, latent_image))


class NoiseByPlace(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_NoiseByPlace",
            display_name="Noise by Place",
            category=CATEGORY,
            description="Random noise in which every place of the canvas has its own, whatever the canvas' size: that of "
            "Sequential Tiled Upscale at the same seed.",
            search_aliases=["random noise", "seed", "tiled noise", "noise by position", "same noise"],
            inputs=[
                number(
                    "noise_seed",
                    sockets.SEED,
                    "Seed of the noise, as in Sequential Tiled Upscale.",
                    control_after_generate=True,
                )
            ],
            outputs=[
                io.Noise.Output(
                    tooltip="For Tiled Sampler, SamplerCustomAdvanced, ... All pictures of a batch get the same."
                )
            ],
        )

    @classmethod
    def execute(cls, noise_seed) -> io.NodeOutput:
        return io.NodeOutput(PlacedNoise(noise_seed))
