"""The options of ``dinotile upscale`` that decide how a picture is drawn, and what they say of themselves; their defaults stand
in the command."""

from __future__ import annotations

from typing import Annotated

import typer

from ..upscaling.limits import LIMITS
from .features import DINO


def ranged(setting: str, text: str) -> str:
    """The help of an option, with the range of its setting."""
    return f"{text} Range: {LIMITS[setting]}."


Scale = Annotated[float, typer.Option(help=ranged("scale", "Output size over input size; usually 2 to 4."))]
Denoise = Annotated[
    float,
    typer.Option(
        "--denoise",
        "--strength",
        help=ranged("denoise", "How much may change: 0 nothing, 1 all; usually 0.2 to 0.5."),
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help=ranged(
            "steps", "Model evaluations per tile, at any denoise. Default: demo 6, schnell and klein 4, else 20."
        )
    ),
]
Variant = Annotated[
    str, typer.Option(help="demo (small models of this package), schnell, dev, klein, klein-base or flux2-dev.")
]
ModelPath = Annotated[
    str | None, typer.Option(help="FLUX: a .safetensors file, a diffusers folder or a hub name (owner/name).")
]
VaePath = Annotated[str | None, typer.Option(help="VAE, likewise. Default: the model's own.")]
Dino = Annotated[str | None, typer.Option(help=DINO)]
DinoLayers = Annotated[str, typer.Option(help="Blocks to take. Default: the adapter's.")]
Adapter = Annotated[str | None, typer.Option(help="DINO adapter for this FLUX and this DINO (.safetensors).")]
DinoStrength = Annotated[float, typer.Option(help=ranged("dino_strength", "0 is off, 1 is as trained."))]
DinoGuidance = Annotated[
    float,
    typer.Option(
        help=ranged(
            "dino_guidance",
            "Classifier-free guidance by DINO: 1 is off; usually 1.5 to 3, for twice the time. It multiplies what the "
            "adapter has learned (the demo's: 2).",
        )
    ),
]
DinoMask = Annotated[
    str | None, typer.Option(metavar="MASK", help="A picture of the same proportions: DINO acts where it is white.")
]
NoDino = Annotated[bool, typer.Option("--no-dino", help="Do not use DINO.")]
Redux = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="FLUX.1 Redux with its SigLIP, a folder of diffusers or a hub name: tells FLUX what is in each tile; needs "
        "no adapter.",
    ),
]
ReduxStrength = Annotated[
    float, typer.Option(help=ranged("redux_strength", "Factor on the attention that Redux gets: 0 is off."))
]
ReduxGrid = Annotated[
    int, typer.Option(help=ranged("redux_grid", "Redux's tokens per side of a tile; usually 9 to 27."))
]
Controlnet = Annotated[
    str | None,
    typer.Option(
        help="A tile or upscaling ControlNet of FLUX.1, which is shown the enlarged picture and keeps its layout at a high "
        "denoise: a .safetensors file in diffusers' layout, its folder or a hub name."
    ),
]
ControlnetStrength = Annotated[float, typer.Option(help=ranged("controlnet_strength", "0 is off; usually 0.4 to 0.8."))]
UpscaleModel = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Makes the first enlargement: an ESRGAN-type model (.safetensors), or bicubic. Default: demo its own, else "
        "bicubic.",
    ),
]
DenoiseMask = Annotated[
    str | None,
    typer.Option(
        metavar="MASK", help="Likewise: where it is black, the enlarged picture stays; where white, it is redrawn."
    ),
]
Adaptive = Annotated[
    float,
    typer.Option(
        help=ranged(
            "adaptive",
            "How much less is redrawn on flat ground, writing and small objects, as DINO sees them: 0 is off; usually 0.5 "
            "to 1. Needs a DINO model; an adapter is not needed.",
        )
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(help=ranged("tile", "Tile side, px, about (--tile-fit), a multiple of 16. Default: 1024; demo 256.")),
]
Overlap = Annotated[
    int | None,
    typer.Option(help=ranged("overlap", "Least overlap of tiles, px, smaller than --tile. Default: 128; demo 32.")),
]
TileFit = Annotated[
    str,
    typer.Option(
        help="balanced: sides within 25 % of --tile, so that the fewest pixels are sampled; exact: that size."
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        help="joint: all tiles in every step, on one canvas; sequential: each tile to its end, for pictures of any size in "
        "little memory; auto: joint where the canvas is expected to fit, and no --store is named."
    ),
]
Noise = Annotated[
    str,
    typer.Option(
        help="Of mode joint: canvas draws the noise of the whole canvas at once; place, for each of its parts by where it lies, "
        "as mode sequential always does."
    ),
]
Moving = Annotated[
    bool, typer.Option("--moving", help="Shift the tiles at every step, so that an --overlap of 0 to 32 suffices.")
]
Fidelity = Annotated[
    float | None,
    typer.Option(
        help=ranged("fidelity", "0: FLUX alone; 1: shrunk, the result equals the source. Default: 0; demo 1.")
    ),
]
VaeDetail = Annotated[
    float | None,
    typer.Option(
        help=ranged(
            "vae_detail",
            "Share of what the VAE alone loses of the enlarged picture that is put back; for a small VAE. At a high denoise "
            "old detail shows through. Default: 0; demo 1.",
        )
    ),
]
ColorMatch = Annotated[
    str,
    typer.Option(
        help="The result in the colours of the enlarged source: off; wavelet (coarse light and colour are the source's); adain "
        "(mean and contrast of each channel are); adain_tiles (tile by tile)."
    ),
]
Anchor = Annotated[
    float | None,
    typer.Option(
        help=ranged(
            "anchor",
            "Keeps every step true to the source at the source's own size; needs no DINO. 0 is off, 1 all of it; less "
            "for a source with noise or JPEG blocks. Default: 1 with --decoder and no --guide, else 0.",
        )
    ),
]
Guide = Annotated[
    float,
    typer.Option(
        help=ranged(
            "guide",
            "Leads every step to where --dino sees the same as in the source, without an adapter; usually 1 to 2.",
        )
    ),
]
GuideFrom = Annotated[
    float,
    typer.Option(help=ranged("guide_from", "Share of the first noise level from which --anchor and --guide act.")),
]
GuideTo = Annotated[float, typer.Option(help=ranged("guide_to", "Likewise, down to which they act."))]
GuideEvery = Annotated[int, typer.Option(help=ranged("guide_every", "They act at every n-th step, n times as far."))]
Decoder = Annotated[
    str | None,
    typer.Option(
        help="A small VAE of FLUX's latents (madebyollin/taef1, or a file) that they look with. Default: the VAE, which is slow."
    ),
]
Retry = Annotated[
    float,
    typer.Option(
        help=ranged(
            "retry",
            "Look at every tile with DINO, and do those again, gentler, that agree with the source less than this share of "
            "what plain enlargement does: 0 is off; usually 0.8 to 0.9.",
        )
    ),
]
Prompt = Annotated[str | None, typer.Option(help="What is in the picture; needs a whole pipeline.")]
MaskPadding = Annotated[
    bool, typer.Option("--mask-padding", help="Keep T5's padding out of the attention, for adapters trained so.")
]
Guidance = Annotated[
    float | None,
    typer.Option(help=ranged("guidance", "The guidance of dev models; usually 2 to 4. Default: 3.5, flux2-dev 4.")),
]
Cfg = Annotated[
    float | None,
    typer.Option(
        help=ranged(
            "cfg",
            "Classifier-free guidance by the prompt: 1 is off; usually 1.5 to 3, for up to three times the time. Default: 1, "
            "klein-base 4.",
        )
    ),
]
Negative = Annotated[str | None, typer.Option(help="What --cfg leads away from. Default: the empty prompt.")]
Seed = Annotated[int, typer.Option(help=ranged("seed", "Seed of the noise."))]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Weights = Annotated[
    str,
    typer.Option(help="FLUX's weights: full (in --dtype), fp8 (8 bits) or nf4 (4 bits, with bitsandbytes)."),
]
Offload = Annotated[
    str,
    typer.Option(
        help="none: models stay on the GPU; model: one is there at a time; sequential: one layer at a time, slowly."
    ),
]
AttentionSlicing = Annotated[
    bool,
    typer.Option("--attention-slicing", help="Attention in parts, for devices without fused kernels (MPS, old GPUs)."),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="FLUX by torch.compile: minutes before the first step, for many pictures; needs a compiler.",
    ),
]
