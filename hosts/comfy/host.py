"""Everything that the pack asks of ComfyUI: models, devices, folders, patching, sampling. No other module imports comfy."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.patcher_extension
import comfy.samplers
import comfy.utils
import folder_paths
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel
from torch import Tensor

from ...dino.encode import DinoEncoder, EncodeSettings
from ...dino.feature_map import FeatureMap
from ...dino.load import load_dino
from ...flux_patch import checkpoint
from ...flux_patch.adapter import AdapterConfig, DinoAdapter
from ...flux_patch.geometry import FluxGeometry, geometry_of
from ...flux_patch.schedule import Strength
from ...tiling.plan import Box, TilePlan
from .carrier import DinoCond
from .clip_vision import ClipVisionBackbone, clip_vision_spec
from .inject import CallWrapper, CanvasWrapper, OutputPatch, QueryPatch, RunWrapper, cond_key
from .tiles import TileWrapper

log = logging.getLogger("dinotile")
KEY = "dinotile"
DEMO = Path(__file__).parents[2] / "demo"
Wrappers = comfy.patcher_extension.WrappersMP


# Folders


def register_folders() -> None:
    """Add the folder ``models/dino`` and make the demo models visible to the host's own loaders."""
    folder_paths.add_model_folder_path("dino", str(Path(folder_paths.models_dir) / "dino"))
    for name in ("dino", "diffusion_models", "vae", "model_patches"):
        if (DEMO / name).is_dir():
            folder_paths.add_model_folder_path(name, str(DEMO / name))


def model_files(*folders: str) -> list[str]:
    """Names of the .safetensors files in the given model folders."""
    names = (name for folder in folders for name in folder_paths.get_filename_list(folder))
    return sorted({name for name in names if name.endswith(".safetensors")})


def model_path(name: str, *folders: str) -> str:
    """Full path of a model file; ValueError where none of the folders has it."""
    for folder in folders:
        if name in model_files(folder):
            path = folder_paths.get_full_path(folder, name)
            if path:
                return path
    raise ValueError(
        f"there is no model file {name!r} in models/{' or models/'.join(folders)}: put it there and refresh"
    )


# Pictures


def rgb(image: Tensor, *, name: str = "image") -> Tensor:
    """An IMAGE [B, H, W, 1..4] as float [B, H, W, 3]; grey is repeated, alpha dropped; ValueError for what is no picture."""
    if image.ndim != 4 or 0 in image.shape:
        raise ValueError(f"{name} has shape {list(image.shape)}: connect at least one picture [B, H, W, C]")
    channels = image.shape[3]
    if channels not in (1, 2, 3, 4):
        raise ValueError(f"{name} has {channels} channels, 1 to 4 are allowed: convert it to RGB")
    picture = image[..., :1].expand(-1, -1, -1, 3) if channels < 3 else image[..., :3]
    picture = picture.float()
    if not bool(picture.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite values: repair the node that made it")
    return picture


def single_mask(mask: Tensor | None) -> Tensor | None:
    """A MASK [1, H, W] or [H, W] as [H, W] on the CPU, 0 to 1; ValueError for several."""
    if mask is None:
        return None
    if mask.ndim == 3 and len(mask) != 1:
        raise ValueError(f"the mask holds {len(mask)} pictures, one is allowed: pick one mask for the whole batch")
    return mask.reshape(mask.shape[-2:]).float().clamp(0, 1).cpu()


def to_host(image: Tensor) -> Tensor:
    """A result on the device and in the dtype that the host keeps between nodes."""
    return image.to(comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype())


# DINO


class ManagedBackbone:
    """A DINO backbone that the host loads right before it computes; features from the cache load nothing."""

    def __init__(self, backbone: Any, patcher: Any) -> None:
        self.backbone = backbone
        self.patcher = patcher

    @property
    def model(self) -> torch.nn.Module:
        return self.backbone.model

    def hidden(self, pixels: Tensor, blocks: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        comfy.model_management.throw_exception_if_processing_interrupted()
        comfy.model_management.load_models_gpu([self.patcher])
        return self.backbone.hidden(pixels, blocks)


class Held(torch.nn.Module):
    """A module around transformers' model: the host sets ``device`` on what it manages, which that model forbids."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model


@dataclass(frozen=True)
class HostDino:
    encoder: DinoEncoder
    patcher: Any

    def encode(self, image: Tensor, settings: EncodeSettings) -> FeatureMap:
        """Features of an IMAGE [B, H, W, C]."""
        pixels, before = rgb(image).movedim(-1, 1), self.encoder.computed
        found = self.encoder.encode(pixels, settings=settings, device=self.patcher.load_device)
        log.info(
            "%s: %d of %d pictures encoded, the others remembered",
            self.encoder.spec.name,
            self.encoder.computed - before,
            len(pixels),
        )
        return found


def _managed(encoder: DinoEncoder, patcher: Any) -> HostDino:
    backbone = ManagedBackbone(encoder.backbone, patcher)
    return HostDino(DinoEncoder(backbone, encoder.spec, encoder.fingerprint), patcher)


def load_host_dino(name: str) -> HostDino:
    device = comfy.model_management.text_encoder_device()
    fast = comfy.model_management.should_use_fp16(device)  # text_encoder_dtype is for layers that cast as they compute
    dtype = torch.float16 if fast else torch.float32
    encoder = load_dino(model_path(name, "dino", "clip_vision"), dtype=dtype)
    offload = comfy.model_management.text_encoder_offload_device()
    patcher = comfy.model_patcher.CoreModelPatcher(Held(encoder.model), load_device=device, offload_device=offload)
    return _managed(encoder, patcher)


def dino_from_clip_vision(clip_vision: Any) -> HostDino:
    """The host's own DINO model; its ModelPatcher stays the host's."""
    spec = clip_vision_spec(clip_vision.config)
    encoder = DinoEncoder(ClipVisionBackbone(clip_vision.model, spec), spec, f"clip_vision_{id(clip_vision.model):x}")
    return _managed(encoder, clip_vision.patcher)


# Adapter


@dataclass(frozen=True)
class HostAdapter:
    adapter: DinoAdapter
    patcher: Any

    def check_dino(self, dino: HostDino) -> None:
        """ValueError where the adapter was made for another DINO model."""
        made_for, given = self.adapter.config.dino, dino.encoder.spec.name
        if made_for != given:
            raise ValueError(
                f"the adapter was made for {made_for}, the DINO model is {given}: connect the one it was made for"
            )

    def project(self, features: FeatureMap) -> FeatureMap:
        self.adapter.check_features(features)
        comfy.model_management.load_models_gpu([self.patcher])
        return self.adapter.project(features.to(self.patcher.load_device)).to("cpu")


def _host_adapter(adapter: DinoAdapter) -> HostAdapter:
    patcher = comfy.model_patcher.CoreModelPatcher(
        adapter,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    return HostAdapter(adapter, patcher)


def load_host_adapter(name: str) -> HostAdapter:
    adapter = checkpoint.load_adapter(model_path(name, "model_patches"), operations=comfy.ops.manual_cast)
    if not adapter.trained:
        log.warning("%s is an untrained adapter: it changes nothing until it is trained", name)
    return _host_adapter(adapter)


def new_host_adapter(config: AdapterConfig, *, seed: int) -> HostAdapter:
    return _host_adapter(checkpoint.new_adapter(config, seed=seed, operations=comfy.ops.manual_cast))


# Patching and conditioning


def flux_geometry(model: Any) -> FluxGeometry:
    return geometry_of(model.get_model_object("diffusion_model"))


def patch_flux(model: Any, host_adapter: HostAdapter) -> Any:
    """A clone of the model in which the adapter's hooks are installed."""
    adapter = host_adapter.adapter
    adapter.check_geometry(flux_geometry(model))
    key = cond_key(adapter)
    model = model.clone()
    if Wrappers.APPLY_MODEL in model.wrappers and key in model.wrappers[Wrappers.APPLY_MODEL]:
        raise ValueError("the model is already patched with this adapter: remove one 'Patch FLUX with DINO'")
    model.add_wrapper_with_key(Wrappers.OUTER_SAMPLE, key, RunWrapper())
    model.add_wrapper_with_key(Wrappers.CALC_COND_BATCH, key, CanvasWrapper(key))
    model.add_wrapper_with_key(Wrappers.APPLY_MODEL, key, CallWrapper(adapter))
    model.set_model_attn1_patch(QueryPatch(key, host_adapter.patcher))
    model.set_model_attn1_output_patch(OutputPatch(key))
    return model


def attach(
    conditioning: list,
    adapter: DinoAdapter,
    tokens: FeatureMap | None,
    settings: Strength,
    *,
    picture: tuple[float, float] | None = None,
) -> list:
    """A copy of a CONDITIONING that carries DINO tokens, or the learned null.

    picture: latent height and width that the features cover, where the canvas is padded beyond them.
    """
    key = cond_key(adapter)
    entry = DinoCond(tokens, settings, adapter=f"{adapter.fingerprint} ({adapter.config.dino})", picture=picture)
    return [[c, {**d, "model_conds": {**d.get("model_conds", {}), key: entry}}] for c, d in conditioning]


def empty_conditioning(model: Any, *, tokens: int, guidance: float) -> list:
    """CONDITIONING of zero text tokens [1, tokens, context] and a zero pooled vector, in the model's widths."""
    geometry = flux_geometry(model)
    text = torch.zeros(1, tokens, geometry.context)
    return [[text, {"pooled_output": torch.zeros(1, geometry.vector), "guidance": guidance}]]


def tile_model(model: Any, plan: TilePlan) -> Any:
    """A clone of the model that every sampler runs tile by tile, all tiles in each step."""
    flux_geometry(model)  # refuses other models
    model = model.clone()
    if model.wrappers.get(Wrappers.CALC_COND_BATCH, {}).get(f"{KEY}_tiles"):
        raise ValueError("the model is already tiled: remove one 'Tile Model', or do not connect it to 'Tiled Sampler'")
    tiles = TileWrapper(
        plan,
        crop_control=crop_control,
        check_interrupt=comfy.model_management.throw_exception_if_processing_interrupted,
    )
    for kind, wrapper in (
        (Wrappers.OUTER_SAMPLE, tiles.outer_sample),
        (Wrappers.CALC_COND_BATCH, tiles.calc_cond_batch),
        (Wrappers.APPLY_MODEL, tiles.apply_model),
    ):
        model.add_wrapper_with_key(kind, f"{KEY}_tiles", wrapper)
    return model


def crop_control(control: Any, box: Box, plan: TilePlan) -> Any:
    """A ControlNet chain whose hints show one tile: the hint as the host would fit it to the canvas, then cropped."""
    ratio = control.compression_ratio
    if control.vae is not None:
        ratio *= control.vae.spacial_compression_encode()
    tile = control.copy()
    tile.cond_hint_original = _crop_hint(control.cond_hint_original, box, plan, ratio, control.upscale_algorithm)
    tile.extra_concat_orig = [
        _crop_hint(extra, box, plan, 1, control.upscale_algorithm) for extra in control.extra_concat_orig
    ]
    tile.timestep_range = control.timestep_range
    if hasattr(control, "model_sampling_current"):
        tile.model_sampling_current = control.model_sampling_current
    for device, clone in control.multigpu_clones.items():
        tile.multigpu_clones[device] = crop_control(clone, box, plan)
    if control.previous_controlnet is not None:
        tile.set_previous_controlnet(crop_control(control.previous_controlnet, box, plan))
    return tile


def _crop_hint(hint: Tensor, box: Box, plan: TilePlan, ratio: int, algorithm: str) -> Tensor:
    hint = comfy.utils.common_upscale(hint, plan.width * ratio, plan.height * ratio, algorithm, "center")
    return hint[..., box.top * ratio : box.bottom * ratio, box.left * ratio : box.right * ratio]


# Sampling


def tiled_guider(guider: Any, plan: TilePlan) -> Any:
    """The same guider over the tiled model; the given one stays as it is."""
    guider = copy.copy(guider)
    guider.model_patcher = tile_model(guider.model_patcher, plan)
    guider.model_options = guider.model_patcher.model_options
    return guider


def run_sampler(noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent: dict) -> tuple[dict, dict]:
    """The host's own *SamplerCustomAdvanced*: progress, preview, interrupt."""
    out, denoised = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args
    return out, denoised


def cfg_guider(model: Any, positive: list, negative: list, cfg: float) -> Any:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def sampler_names() -> list[str]:
    return list(comfy.samplers.SAMPLER_NAMES)


def scheduler_names() -> list[str]:
    return list(comfy.samplers.SCHEDULER_NAMES)


def named_sampler(name: str) -> Any:
    return comfy.samplers.sampler_object(name)


def denoise_sigmas(model: Any, scheduler: str, *, steps: int, denoise: float) -> Tensor:
    """The last ``steps`` of a schedule of steps / denoise, as KSampler does."""
    if denoise <= 0:
        return torch.FloatTensor([])
    model_sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(model_sampling, scheduler, int(steps / denoise))[-(steps + 1) :]


def random_noise(seed: int) -> Any:
    return Noise_RandomNoise(seed)


def check_vae(vae: Any) -> None:
    if vae.latent_channels != 16:
        raise ValueError(
            f"the VAE has {vae.latent_channels} latent channels, FLUX.1 needs 16: load FLUX.1's VAE, ae.safetensors"
        )


def upscale_with_model(upscale_model: Any, image: Tensor) -> Tensor:
    (result,) = ImageUpscaleWithModel.execute(upscale_model, image).args
    return result
