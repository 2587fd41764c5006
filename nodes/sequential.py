"""The whole path in one node, one tile after the other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from comfy_api.latest import io

from ..hosts.comfy.folders import kept_tiles
from ..hosts.comfy.host import ComfyHost
from ..hosts.comfy.images import to_host, upscale_with_model, with_alpha
from ..hosts.comfy.padded import placed
from ..hosts.comfy.pictures import of_picture
from ..hosts.comfy.progress import HostProgress, wants_previews
from ..hosts.comfy.sampling import ComfySampler
from ..hosts.comfy.shown import still_shown
from ..tiling.canvas import scaled_size
from ..tiling.color_match import OF_TILES
from ..upscaling.guides import whole_picture
from ..upscaling.masks import flat
from . import sockets
from .upscale import Upscale, checked, settings_of

SHARED = (  # inputs of DINO Tiled Upscale that need no whole canvas
    "image", "model", "vae", "positive", "negative", "scale", "denoise", "steps", "sampler", "scheduler", "cfg", "tile",
    "overlap", "dino_strength", "seed", "dino", "adapter", "upscale_model", "fidelity", "dino_mask", "denoise_mask",
    "tile_fit", "adaptive", "vae_detail",
)  # fmt: skip
LATER = ("anchor", "decoder")  # the same, but last
PART = 1000  # of the bar, for a tile


class SequentialUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        shared = {each.id: each for each in Upscale.define_schema().inputs}
        return io.Schema(
            node_id="DinoTile_SequentialUpscale",
            display_name="Sequential Tiled Upscale",
            category=sockets.CATEGORY,
            description="DINO Tiled Upscale for very large pictures: every tile is sampled to its end, in sight of its finished "
            "neighbours, and can be kept.",
            search_aliases=["large upscale", "resume upscale", "redo tile", "gigapixel", "ultimate sd upscale"],
            inputs=[
                *(shared[name] for name in SHARED),
                io.String.Input(
                    "keep",
                    default="",
                    tooltip="Name of a folder, made in ComfyUI's output folder, where finished tiles are kept: the same inputs "
                    "go on there after a stop. Empty: none are kept.",
                    optional=True,
                ),
                io.String.Input(
                    "redo",
                    default="",
                    tooltip="Kept tiles that are done again with other noise: numbers from 1 (3,4), or boxes in px of the result "
                    "(WIDTHxHEIGHT+LEFT+TOP). Empty: none.",
                    optional=True,
                ),
                sockets.color_match(
                    OF_TILES,
                    "wavelet: coarse light and colour are the source's. adain_tiles: mean and contrast of each channel of a tile "
                    "are.",
                ),
                *(shared[name] for name in LATER),
            ],
            outputs=[sockets.upscaled()],
        )

    @classmethod
    def fingerprint_inputs(cls, redo="", **others) -> str | float:
        """To redo is another try whenever it is queued: NaN is never the same. None comes by a link, and is not known yet."""
        return "" if redo is not None and not redo.strip() else float("nan")

    @classmethod
    def validate_inputs(cls, tile, overlap, keep="", redo="") -> bool | str:
        found = sockets.problem(folder_of, keep, redo)
        return Upscale.validate_inputs(tile, overlap) if found is True else found

    @classmethod
    def check_lazy_status(cls, keep="", redo="", **inputs) -> list[str]:
        folder_of(keep, redo)
        return Upscale.check_lazy_status(**inputs)

    @classmethod
    def execute(
        cls, image, model, vae, positive, negative, scale, denoise, steps, sampler, scheduler, cfg, tile, overlap,
        dino_strength, seed, dino=None, adapter=None, upscale_model=None, fidelity=0.0, dino_mask=None,
        denoise_mask=None, tile_fit="balanced", adaptive=0.0, vae_detail=0.0, keep="", redo="", color_match="off",
        anchor=0.0, decoder=None,
    ) -> io.NodeOutput:  # fmt: skip
        # Here, because the host's start waits for what is imported above.
        from ..hosts.comfy.place import PlaceCrop, check_patches
        from ..hosts.comfy.prints import print_of
        from ..tiling.preview import Filling
        from ..tiling.store import TileStore
        from ..upscaling.redo import chosen_tiles
        from ..upscaling.rows import Pixels
        from ..upscaling.sequential import upscale_tiles

        folder, settings = folder_of(keep, redo), settings_of(locals())
        pixels, where = checked(settings, image, dino, adapter, dino_mask=dino_mask, denoise_mask=denoise_mask)
        if redo.strip() and len(pixels) > 1:
            raise ValueError(f"redo means tiles of one picture, and {len(pixels)} came: give one, or leave redo empty")
        check_patches(model)
        host = ComfyHost(model, vae, decoder=decoder, adapter=adapter)
        size = scaled_size(*pixels.shape[-2:], scale=scale)
        plan = settings.plan(*pixels.shape[-2:], latents=host.latents)
        models, open_store = "", None
        if folder is not None:
            weights = [None if each is None else each.fingerprint for each in (dino, adapter and adapter.adapter)]
            models = print_of(model, vae, decoder, upscale_model, sampler, scheduler, weights)
            open_store = partial(TileStore, folder)
        positive, negative = (still_shown(each, batch=len(pixels)) for each in (positive, negative))
        crop, differential = PlaceCrop(plan.latent), adaptive > 0
        make_guide, results = None, []
        if adapter is not None:
            make_guide = whole_picture(host, dino, adapter.project, strength=dino_strength, mask=flat(where.dino))
        for number, picture in enumerate(pixels.split(1)):
            rows, filling = list[torch.Tensor](), Filling(picture, size)

            def write(part: torch.Tensor, rows: list[torch.Tensor] = rows, filling: Filling = filling) -> None:
                rows.append(part)
                filling.put(part)

            texts = of_picture(positive, negative, number=number, pictures=len(pixels))
            told = placed(*texts, latents=host.latents, size=size)
            sampling = ComfySampler(
                host, *told, sampler, scheduler, cfg, steps, denoise, seed, False, differential, crop
            )
            parts = {"dino": PART, "sample": plan.count * PART}
            upscale_tiles(
                host,
                Pixels(picture),
                settings,
                sampler=sampling,
                write=write,
                make_guide=make_guide,
                encoder=dino if settings.dino_uses else None,
                enlarge=None if upscale_model is None else partial(upscale_with_model, upscale_model),
                masks=where.of(number),
                open_store=open_store,
                made_by=models and print_of(models, *texts),
                redo=partial(chosen_tiles, redo.strip(), size=size) if redo.strip() else None,
                progress=HostProgress(filling.draw if wants_previews() else None, parts=parts),
            )
            results.append(torch.cat(rows, dim=2))
        return io.NodeOutput(to_host(with_alpha(torch.cat(results), image)))


def folder_of(keep: str, redo: str) -> Path | None:
    """Where finished tiles are kept, if they are; ValueError for what is no name, and where tiles are done again of none."""
    if keep.strip():
        return kept_tiles(keep)
    if redo.strip():
        raise ValueError("redo takes all other tiles from those that are kept, and none are: give keep a name")
    return None
