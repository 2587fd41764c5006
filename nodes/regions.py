"""Nodes that tell the parts of a picture apart by DINO: what wants new detail, and what is a region of its own."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..dino.detail import DetailRule, detail_mask
from ..dino.regions import MOST, find_regions
from ..dino.views import regions_picture
from ..hosts.comfy.images import rgb, to_host
from ..hosts.comfy.prompts import prompt_by_region
from ..upscaling.masks import scaled
from . import sockets
from .sockets import number

CATEGORY = f"{sockets.CATEGORY}/Regions"


class DetailMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        usual = DetailRule()
        return io.Schema(
            node_id="DinoTile_DetailMask",
            display_name="DINO Detail Mask",
            category=CATEGORY,
            description="A mask that is low on flat ground, writing and small objects, and high on texture: for Differential "
            "Diffusion with Set Latent Noise Mask, and for the masks of DINO Tiled Upscale.",
            search_aliases=[
                "detail",
                "adaptive denoise",
                "texture mask",
                "differential diffusion",
                "variable denoise strength",
            ],
            inputs=[
                sockets.Features.Input("features", tooltip="From Extract DINO Patches."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that the features are of. Without it flat ground is what is like its neighbours to "
                    "DINO, and writing is not found.",
                ),
                number(
                    "low", (usual.low, 0.0, 1.0, 0.01), "Value where nothing wants detail. Usual: 0.2.", optional=True
                ),
                number("high", (usual.high, 0.0, 1.0, 0.01), "Value on texture. Usual: 1.", optional=True),
                number(
                    "contrast",
                    (usual.contrast, 0.001, 1.0, 0.005),
                    "Standard deviation of the luminance (0 to 1) in a cell of 16 px from which on it is texture. Lower: "
                    "soft and faint texture counts too. Usual: 0.03 to 0.1.",
                    optional=True,
                ),
                number("text", (usual.text, 0.0, 1.0, 0.05), "How much writing is spared. Usual: 1.", optional=True),
                number(
                    "objects",
                    (usual.objects, 0.0, 1.0, 0.05),
                    "How much small objects, faces among them, are spared. Usual: 1.",
                    optional=True,
                ),
                number(
                    "smoothing",
                    (usual.smoothing, 0, 16),
                    "Radius in cells over which what is alike to DINO shares its value. Usual: 2.",
                    optional=True,
                ),
                io.Mask.Input(
                    "protect",
                    optional=True,
                    tooltip="What must not change at all, over the whole picture: 1 becomes 0 in the result, 0 leaves it. For "
                    "faces, of which DINO knows nothing sure.",
                ),
            ],
            outputs=[io.Mask.Output(tooltip="In the size of the encoded picture.")],
        )

    @classmethod
    def execute(
        cls, features, image=None, low=0.2, high=1.0, contrast=0.06, text=1.0, objects=1.0, smoothing=2, protect=None
    ) -> io.NodeOutput:
        rule = DetailRule(low=low, high=high, contrast=contrast, text=text, objects=objects, smoothing=smoothing)
        height, width = features.image_size
        mask = detail_mask(features, None if image is None else rgb(image).movedim(-1, 1), rule=rule)
        mask = scaled(mask[:, None], height=height, width=width)
        protect = sockets.mask_over(protect, height, width, name="protect")
        if protect is not None:
            mask = mask * (1 - scaled(protect[None, None], height=height, width=width))
        return io.NodeOutput(to_host(mask[:, 0]))


class FindRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_Regions",
            display_name="DINO Regions",
            category=CATEGORY,
            description="Divides a picture into regions of what DINO finds alike, the largest first, by k-means of its features.",
            search_aliases=["segment", "segmentation", "clusters", "k-means", "label map", "dinov2 regions"],
            inputs=[
                sockets.Features.Input("features", tooltip="From Extract DINO Patches, of one picture."),
                number("k", (0, 0, 64), f"How many regions; 0 chooses, 1 to {MOST}. Usual: 0."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture, which shows through in the output picture; the outputs take its size. Without: the "
                    "size of the encoded picture.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="regions", tooltip="A mask for each region; each place lies in one of them."
                ),
                io.Image.Output(display_name="picture", tooltip="The regions in colours, with their numbers from 1."),
                io.Int.Output(display_name="count", tooltip="How many regions."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, features, k, image=None) -> io.NodeOutput:
        picture = None if image is None else rgb(image)[0]
        height, width = features.image_size if picture is None else picture.shape[:2]
        regions = find_regions(features, k=k)
        drawn = to_host(regions_picture(regions, height=height, width=width, image=picture)[None])
        masks = to_host(regions.masks(height, width))
        return io.NodeOutput(masks, drawn, regions.count, ui=ui.PreviewImage(drawn, cls=cls))


class PromptByRegion(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_PromptByRegion",
            display_name="Prompt by Region",
            category=CATEGORY,
            description="One prompt for each region. Sampled in tiles, a tile gets only the prompts of what is in it.",
            search_aliases=["regional prompt", "attention couple", "conditioning set mask", "masked prompt"],
            inputs=[
                io.Mask.Input("regions", tooltip="From DINO Regions, or any batch of masks over the whole picture."),
                io.Conditioning.Input("fallback", tooltip="What is said of the rest: regions without a prompt."),
                *(
                    io.Conditioning.Input(f"prompt_{n}", optional=True, tooltip=f"What is said of region {n}.")
                    for n in range(1, MOST + 1)
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="For a sampler's positive, or Project DINO Conditioning.")],
        )

    @classmethod
    def execute(cls, regions, fallback, **prompts) -> io.NodeOutput:
        said = [prompts.get(f"prompt_{n}") for n in range(1, MOST + 1)]
        return io.NodeOutput(prompt_by_region(regions, said, fallback=fallback))
