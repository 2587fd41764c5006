"""API prompts as a browser would send them, made of the pack's and ComfyUI's own nodes."""

from __future__ import annotations

import numpy as np
from PIL import Image

from . import models

Prompt = dict[str, dict]


def node(kind: str, **inputs) -> dict:
    """A link is (id of another node, number of its output)."""
    return {"class_type": kind, "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()}}


def loaders(image: str, *, flux: str = models.FLUX, vae: str = models.VAE) -> Prompt:
    return {
        "image": node("LoadImage", image=image),
        "flux": node("UNETLoader", unet_name=flux, weight_dtype="default"),
        "vae": node("VAELoader", vae_name=vae),
        "empty": node("DinoTile_EmptyConditioning", model=("flux", 0), tokens=4, guidance=3.5),
    }


def with_dino(dino: str = models.DINO, adapter: str = models.TRAINED) -> Prompt:
    return {
        "dino": node("DinoTile_LoadDino", dino_name=dino),
        "adapter": node("DinoTile_LoadAdapter", adapter_name=adapter),
    }


def new_adapter(**changed) -> dict:
    """An untrained adapter for the prompt's "flux" and "dino"."""
    settings = {
        "layers": "2/3",
        "mechanisms": "all",
        "width": 32,
        "grid": 8,
        "double_every": 1,
        "single_every": 2,
        "init_seed": 3,
    }
    return node("DinoTile_NewAdapter", model=("flux", 0), dino=("dino", 0), **settings | changed)


def one_node(file: str, /, *, dino: str = models.DINO, adapter: str = models.TRAINED, **changed) -> Prompt:
    """The one-node path with everything connected."""
    files = {name: changed.pop(name) for name in ("flux", "vae") if name in changed}
    settings = {
        "scale": 2.0,
        "denoise": 0.5,
        "steps": 1,
        "sampler": "euler",
        "scheduler": "simple",
        "cfg": 1.0,
        "tile": 64,
        "overlap": 16,
        "dino_strength": 1.0,
        "seed": 0,
        "fidelity": 0.0,
    }
    links = {
        "image": ("image", 0),
        "model": ("flux", 0),
        "vae": ("vae", 0),
        "dino": ("dino", 0),
        "adapter": ("adapter", 0),
    }
    links |= {"positive": ("empty", 0), "negative": ("empty", 0)}
    return {
        **loaders(file, **files),
        **with_dino(dino, adapter),
        "upscale": node("DinoTile_Upscale", **links | settings | changed),
        "save": node("SaveImage", images=("upscale", 0), filename_prefix="one"),
    }


def step_by_step(image: str, *, tile: int = 256, overlap: int = 32, seed: int = 1, strength: float = 1.0) -> Prompt:
    """Every stage its own node, up to a patched model, its conditioning, a latent and a plan."""
    return {
        **loaders(image),
        **with_dino(),
        "enlarged": node("ImageScaleBy", image=("image", 0), upscale_method="lanczos", scale_by=2.0),
        "size": node("GetImageSize", image=("enlarged", 0)),
        "latent": node("VAEEncode", pixels=("enlarged", 0), vae=("vae", 0)),
        "features": node(
            "DinoTile_ExtractPatches", dino=("dino", 0), image=("image", 0), layers="2/3", side=224, crops=1
        ),
        "conds": node(
            "DinoTile_ProjectConditioning",
            positive=("empty", 0),
            negative=("empty", 0),
            adapter=("adapter", 0),
            features=("features", 0),
            strength=strength,
            start_percent=0.0,
            end_percent=1.0,
            profile="flat",
        ),
        "patched": node("DinoTile_PatchFlux", model=("flux", 0), adapter=("adapter", 0)),
        "plan": node("DinoTile_PlanTiles", width=("size", 0), height=("size", 1), tile=tile, overlap=overlap),
        "noise": node("RandomNoise", noise_seed=seed),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=("patched", 0), scheduler="simple", steps=2, denoise=0.5),
    }


def by_ksampler(seed: int = 1, cfg: float = 1.0) -> Prompt:
    """Tile Model with ComfyUI's KSampler."""
    return {
        "tiled": node("DinoTile_TileModel", model=("patched", 0), plan=("plan", 0)),
        "ksampler": node(
            "KSampler",
            model=("tiled", 0),
            positive=("conds", 0),
            negative=("conds", 1),
            latent_image=("latent", 0),
            seed=seed,
            steps=2,
            cfg=cfg,
            sampler_name="euler",
            scheduler="simple",
            denoise=0.5,
        ),
        **decoded("ksampler"),
    }


def by_tiled_sampler(cfg: float = 1.0) -> Prompt:
    """Tiled Sampler with ComfyUI's BasicGuider, or its CFGGuider above cfg 1."""
    if cfg == 1.0:
        guider = node("BasicGuider", model=("patched", 0), conditioning=("conds", 0))
    else:
        guider = node("CFGGuider", model=("patched", 0), positive=("conds", 0), negative=("conds", 1), cfg=cfg)
    return {
        "guider": guider,
        "sampler": node(
            "DinoTile_TiledSampler",
            noise=("noise", 0),
            guider=("guider", 0),
            sampler=("euler", 0),
            sigmas=("sigmas", 0),
            latent_image=("latent", 0),
            plan=("plan", 0),
        ),
        **decoded("sampler"),
    }


def decoded(latent: str) -> Prompt:
    return {
        f"{latent} decode": node("VAEDecode", samples=(latent, 0), vae=("vae", 0)),
        f"{latent} save": node("SaveImage", images=(f"{latent} decode", 0), filename_prefix=latent),
    }


def soft_picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def saved(server, result, key: str) -> np.ndarray:
    assert result.ok, result
    return np.asarray(server.picture(result.outputs[key]["images"][0])).astype(int)
