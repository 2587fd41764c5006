"""The whole path in one node. It calls what the other nodes call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..hosts.comfy.host import ComfyHost
from ..hosts.comfy.images import masks, rgb, single_mask, to_host, upscale_with_model, with_alpha
from ..hosts.comfy.padded import placed
from ..hosts.comfy.progress import HostProgress
from ..hosts.comfy.sampling import ComfySampler, sampler_names, scheduler_names
from ..tiling.canvas import scaled_size
from ..tiling.color_match import MATCHES
from ..tiling.noise import NOISES
from ..upscaling.guides import check_guide, check_pair, whole_picture
from ..upscaling.limits import check_tiles
from ..upscaling.masks import Masks, flat
from ..upscaling.pipeline import upscale as run
from ..upscaling.settings import UpscaleSettings
from . import sockets
from .sockets import problem, setting

FLUX = ("model", "positive", "negative")  # what loads FLUX, and is asked for when all else has been looked at
UNCONNECTED = object()  # to ``validate_inputs``, to which what is connected is None
PART = 100  # of the bar: for DINO, the VAE twice, what guidance begins with, and each step


class Upscale(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="DinoTile_Upscale",
            display_name="DINO Tiled Upscale",
            category=sockets.CATEGORY,
            description="Enlarges a picture, then redraws its detail in tiles that know what they are a part of.",
            search_aliases=[
                "upscale",
                "tiled upscale",
                "flux upscale",
                "ultimate sd upscale",
                "super resolution",
                "sr",
                "enhance",
                "add detail",
                "dino upscale",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The picture, any size and aspect; alpha is enlarged and kept."),
                io.Model.Input(
                    "model",
                    lazy=True,
                    tooltip="Any model of pictures, not tiled and not patched with DINO yet. An adapter needs the model that it "
                    "was made for.",
                ),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Conditioning.Input(
                    "positive", lazy=True, tooltip="A prompt; for FLUX.1 also Empty FLUX Conditioning."
                ),
                io.Conditioning.Input("negative", lazy=True, tooltip="Only used where cfg is above 1."),
                setting("scale", "Factor for both sides; the output size is exact. Usual: 2.", step=0.05),
                setting("denoise", "How much is redrawn, 0 nothing to 1 everything. Usual: 0.2 to 0.5.", step=0.01),
                setting("steps", "Model steps that are run. Usual: 4 for schnell, 20 for dev."),
                io.Combo.Input(
                    "sampler",
                    options=sampler_names(),
                    default="euler",
                    tooltip="Any of ComfyUI's samplers. Usual: euler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=scheduler_names(),
                    default="simple",
                    tooltip="Spacing of the noise levels. Usual: simple.",
                ),
                setting(
                    "cfg",
                    "True CFG scale, by prompt and DINO; it multiplies guidance that the adapter learned. Usual: 1 (off, "
                    "half the time); 1.5 to 3 follows DINO closely.",
                    step=0.1,
                ),
                sockets.tile(),
                sockets.overlap("Least overlap of neighbours in px. Usual: 128; demo models: 32."),
                setting(
                    "dino_strength", "0 is off, 1 as trained. Usual: 0.5 to 1.5. Needs dino and adapter.", step=0.01
                ),
                setting(
                    "seed",
                    "Seed of the noise. Another seed computes no DINO features again.",
                    control_after_generate=True,
                ),
                sockets.Dino.Input(
                    "dino",
                    optional=True,
                    tooltip="From Load DINO Model. It acts through an adapter, or through inputs that need DINO alone.",
                ),
                sockets.Adapter.Input(
                    "adapter",
                    optional=True,
                    tooltip="From Load DINO Adapter. Needs the DINO model that it was made for.",
                ),
                io.UpscaleModel.Input(
                    "upscale_model",
                    optional=True,
                    tooltip="An ESRGAN-type model for the first enlargement. Without: bicubic.",
                ),
                setting(
                    "fidelity",
                    "0: FLUX alone (usual). 1: shrunk to its old size the result equals the source, so colours and "
                    "structure stay; a source with noise or JPEG blocks brings them back.",
                    step=0.05,
                ),
                io.Mask.Input(
                    "dino_mask",
                    optional=True,
                    tooltip="Where DINO acts, over the whole picture: 1 fully, 0 not at all. Without: everywhere.",
                ),
                io.Mask.Input(
                    "denoise_mask",
                    optional=True,
                    tooltip="What is redrawn, over the whole picture: 1 as denoise says, 0 not at all. Without: all of it.",
                ),
                sockets.tile_fit(),
                sockets.moving(),
                setting(
                    "anchor",
                    "Keeps every step true to the source at the source's own size: 0 is off. Usual: 1; less for a source with "
                    "noise or JPEG blocks. Needs neither DINO nor an adapter; with a decoder it is much faster.",
                    step=0.05,
                    optional=True,
                ),
                setting(
                    "guide",
                    "Leads every step to where DINO sees the same as in the source: 0 is off, usual 1 to 2. Needs dino, but no "
                    "adapter.",
                    step=0.05,
                    optional=True,
                ),
                io.Vae.Input(
                    "decoder",
                    optional=True,
                    tooltip="A small VAE of the model's latents, as taef1, to look with while sampling. Without: the vae.",
                ),
                setting(
                    "adaptive",
                    "How much less is redrawn on flat ground, writing and small objects, as DINO Detail Mask finds them. 0 is "
                    "off. Usual: 0.5 to 1. Needs dino, but no adapter.",
                    step=0.05,
                    optional=True,
                ),
                setting(
                    "retry",
                    "Look at every tile with DINO, and do those again, gentler, that agree with the source less than this share "
                    "of what plain enlargement does. 0: off (usual); 0.8 to 0.9. Needs dino.",
                    step=0.01,
                    optional=True,
                ),
                setting(
                    "vae_detail",
                    "Share of what the VAE alone loses of the enlarged picture that is put back. 0 is off (usual); 1 for a small "
                    "VAE such as the demo's or a TAESD. At a high denoise old detail shows through.",
                    step=0.05,
                    optional=True,
                ),
                sockets.color_match(
                    MATCHES,
                    "wavelet: coarse light and colour are the source's. adain: mean and contrast of each channel are; "
                    "adain_tiles: tile by tile.",
                ),
                io.Combo.Input(
                    "noise",
                    options=list(NOISES),
                    default="canvas",
                    tooltip="canvas (usual): drawn for the whole canvas at once. place: every place has its own, as from Noise "
                    "by Place: that of Sequential Tiled Upscale at the same seed.",
                    optional=True,
                ),
            ],
            outputs=[sockets.upscaled()],
        )

    @classmethod
    def validate_inputs(cls, tile, overlap, dino=UNCONNECTED, adapter=UNCONNECTED) -> bool | str:
        alone = dino is UNCONNECTED and adapter is not UNCONNECTED
        pair = problem(partial(check_pair, None, "an adapter")) if alone else True
        return problem(check_tiles, tile, overlap) if pair is True else pair

    @classmethod
    def check_lazy_status(
        cls, image, dino=None, adapter=None, dino_mask=None, denoise_mask=None, **others
    ) -> list[str]:  # fmt: skip
        checked(settings_of(others), image, dino, adapter, dino_mask=dino_mask, denoise_mask=denoise_mask)
        return list(FLUX)

    @classmethod
    def execute(
        cls, image, model, vae, positive, negative, scale, denoise, steps, sampler, scheduler, cfg, tile, overlap,
        dino_strength, seed, dino=None, adapter=None, upscale_model=None, fidelity=0.0, dino_mask=None,
        denoise_mask=None, tile_fit="balanced", moving=False, anchor=0.0, guide=0.0, decoder=None, adaptive=0.0,
        retry=0.0, vae_detail=0.0, color_match="off", noise="canvas",
    ) -> io.NodeOutput:  # fmt: skip
        settings = settings_of(locals())
        pixels, where = checked(settings, image, dino, adapter, dino_mask=dino_mask, denoise_mask=denoise_mask)
        host = ComfyHost(model, vae, decoder=decoder, adapter=adapter)
        guidance = {} if settings.on_estimates.off else {"guidance": PART}
        parts = {"dino": PART, "encode": PART, **guidance, "sample": steps * PART, "decode": PART}
        make_guide = None
        if adapter is not None:
            make_guide = whole_picture(host, dino, adapter.project, strength=dino_strength, mask=flat(where.dino))
        size = scaled_size(*pixels.shape[-2:], scale=scale)
        positive, negative = placed(positive, negative, latents=host.latents, size=size)
        sampling = ComfySampler(
            host, positive, negative, sampler, scheduler, cfg, steps, denoise, seed, moving, adaptive > 0
        )
        gentler = replace(sampling, steps=settings.gentler.steps, denoise=settings.gentler.denoise)
        if settings.dino_uses:
            parts["measure"] = PART
        if retry > 0:
            parts["retry"] = gentler.steps * PART
        result, _ = run(
            host,
            pixels,
            settings,
            sampler=sampling,
            make_guide=make_guide,
            encoder=dino if settings.dino_uses else None,
            enlarge=None if upscale_model is None else partial(upscale_with_model, upscale_model),
            masks=where,
            gentler=gentler,
            progress=HostProgress(parts=parts),
        )
        return io.NodeOutput(to_host(with_alpha(result, image)))


def settings_of(inputs: Mapping[str, Any]) -> UpscaleSettings:
    """The inputs that are settings; ValueError for what cannot be set."""
    return UpscaleSettings(
        **{field.name: inputs[field.name] for field in fields(UpscaleSettings) if field.name in inputs}
    )


def checked(
    settings: UpscaleSettings, image: Tensor, dino: Any, adapter: Any, *, dino_mask: Any, denoise_mask: Any
) -> tuple[Tensor, Masks]:
    """The pictures [B, 3, H, W] and their masks; ValueError for what does not fit together, whatever the FLUX."""
    check_pair(dino, adapter, uses=settings.dino_uses)
    check_guide(settings, dino)
    if adapter is not None:
        adapter.adapter.module.check_dino(dino.spec, adapter.adapter.config.encode)
    pixels = rgb(image).movedim(-1, 1).cpu()
    dino_mask = single_mask(dino_mask)
    where = Masks(None if dino_mask is None else dino_mask[None, None], masks(denoise_mask))
    guided = adapter is not None or settings.guide > 0
    where.check(*pixels.shape[-2:], pictures=len(pixels), guided=guided)
    return pixels, where
