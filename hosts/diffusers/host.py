"""The frozen models around the adapter, as training sees them, and the ones that diffusers loads."""

# diffusers exports its classes lazily:
# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

from ... import demo
from ...dino.encode import DinoEncoder, EncodeSettings
from ...dino.feature_map import FeatureMap
from ...dino.load import load_dino
from ...flux_patch.adapter import AdapterConfig, DinoAdapter, spread_sites
from ...flux_patch.checkpoint import new_adapter
from ...flux_patch.geometry import FluxGeometry, RopeOptions, geometry_of, image_ids
from ...flux_patch.rows import DinoRow
from ...training.adapter.config import AdapterSettings, ModelSettings, Sites
from ...upscale.settings import find_variant
from . import vae as vae_path
from .flux import check_models
from .hooks import DinoFlux
from .load import dino_path, load_transformer, load_vae, local_path

log = logging.getLogger("dinotile")

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxTransformer2DModel


class Host(Protocol):
    """What a FLUX gives the trainer. ``adapter`` is float32; only its parameters are trained."""

    geometry: FluxGeometry
    device: torch.device
    dtype: torch.dtype
    adapter: DinoAdapter

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in 0..1, sides multiples of 16 -> the model's latents [B, 16, H/8, W/8]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The model's latents -> [B, 3, H, W] in 0..1."""
        ...

    def features(self, pixels: Tensor, settings: EncodeSettings) -> FeatureMap:
        """DINO features of one picture [1, 3, H, W] in 0..1."""
        ...

    def velocity(
        self, latents: Tensor, sigmas: Tensor, *, context: Tensor, pooled: Tensor, rows: Sequence[DinoRow]
    ) -> Tensor:
        """[B, 16, h, w] at noise levels [B], differentiable in the adapter; context [B, n, C], pooled [B, V]."""
        ...


class DiffusersHost:
    """FLUX and VAE of diffusers, a DINO encoder and the adapter, all frozen except the adapter and on one device."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        vae: AutoencoderKL | AutoencoderTiny,
        dino: DinoEncoder,
        adapter: DinoAdapter,
        *,
        guidance: float = 1.0,
        gradient_checkpointing: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        check_models(transformer, vae)
        self.device = torch.device(device)
        self.transformer = transformer.to(self.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        self.vae = vae.to(self.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        self.dino, self.guidance = dino, guidance
        dino.model.to(self.device).requires_grad_(False)
        self.dtype = transformer.dtype
        self.geometry = geometry_of(transformer)
        self.adapter = adapter.to(self.device, torch.float32)
        self.flux = DinoFlux(transformer, self.adapter)
        if gradient_checkpointing:
            transformer.enable_gradient_checkpointing(self._checkpointed)

    def encode(self, pixels: Tensor) -> Tensor:
        return vae_path.encode(self.vae, pixels)

    def decode(self, latents: Tensor) -> Tensor:
        return vae_path.decode(self.vae, latents)

    def features(self, pixels: Tensor, settings: EncodeSettings) -> FeatureMap:
        return self.dino.encode(pixels, settings=settings, device=self.device)

    def velocity(
        self, latents: Tensor, sigmas: Tensor, *, context: Tensor, pooled: Tensor, rows: Sequence[DinoRow]
    ) -> Tensor:
        height, width = (side // 2 for side in latents.shape[-2:])
        guided = self.transformer.config["guidance_embeds"]
        found = self.flux.velocity(
            rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2).to(self.dtype),
            timestep=sigmas,
            encoder_hidden_states=context.to(self.dtype),
            pooled_projections=pooled.to(self.dtype),
            img_ids=image_ids(height, width, options=RopeOptions()).to(latents.device),
            guidance=torch.full_like(sigmas, self.guidance) if guided else None,
            rows=rows,
            token_size=(height, width),
            percent_to_sigma=lambda percent: 1.0 - percent,
        )
        return rearrange(found.float(), "b (h w) (c p q) -> b c (h p) (w q)", h=height, p=2, q=2)

    def _checkpointed(self, block: nn.Module, *inputs: Any) -> Any:
        """A block whose activations are computed again in the backward pass, when the call's DINO rows have gone."""
        from torch.utils.checkpoint import checkpoint

        return checkpoint(_with_call(self.flux, block), *inputs, use_reentrant=False)


def _with_call(flux: DinoFlux, block: nn.Module) -> Callable[..., Any]:
    call = flux.call

    def run(*inputs: Any) -> Any:
        with flux.during(call):
            return block(*inputs)

    return run


def load_host(model: ModelSettings, adapter: AdapterSettings, *, device: torch.device, seed: int) -> DiffusersHost:
    """The models that the settings name, with a fresh adapter; ValueError where one cannot be had."""
    variant = find_variant(model.variant)
    dtype = getattr(torch, model.dtype)
    flux: Any = model.model_path or variant.repository or demo.FLUX
    vae: Any = model.vae_path or (flux if _brings_vae(flux) else variant.repository or demo.VAE)
    if not model.dino and variant.repository:
        raise ValueError(f"model.dino is empty, variant {variant.name} needs a DINO model: give a file or a hub name")
    transformer = load_transformer(flux, dtype=dtype)
    dino = load_dino(dino_path(model.dino or demo.DINO))
    config = adapter_config(adapter, dino=dino, layers=model.layers, geometry=geometry_of(transformer))
    return DiffusersHost(
        transformer,
        load_vae(vae, dtype=dtype),
        dino,
        new_adapter(config, seed=seed),
        guidance=model.guidance,
        gradient_checkpointing=model.gradient_checkpointing,
        device=device,
    )


def adapter_config(
    settings: AdapterSettings, *, dino: DinoEncoder, layers: str, geometry: FluxGeometry
) -> AdapterConfig:
    """What an adapter with these settings is made for."""
    crossing = "cross_attention" in settings.mechanisms
    pooled = min(settings.context_grid, settings.grid)
    if pooled < settings.context_grid and "context" in settings.mechanisms:
        log.info("adapter.context_grid is lowered to %d, the grid: pooling cannot make more tokens", pooled)
    return AdapterConfig(
        dino=dino.spec.name,
        dino_width=dino.spec.width,
        layers=EncodeSettings(layers=layers).canonical(dino.spec),
        geometry=geometry,
        width=settings.width,
        grid=settings.grid,
        context_grid=pooled,
        mechanisms=settings.mechanisms,
        positions=settings.positions,
        double_sites=_sites(settings.double_sites, geometry, kind="double") if crossing else (),
        single_sites=_sites(settings.single_sites, geometry, kind="single") if crossing else (),
    )


def _sites(sites: Sites, geometry: FluxGeometry, *, kind: str) -> tuple[int, ...]:
    if isinstance(sites, tuple):
        return sites
    every = {} if sites is None else {f"{kind}_every": sites}
    return spread_sites(geometry, **every)[f"{kind}_sites"]


def _brings_vae(flux: Any) -> bool:
    path = local_path(flux)
    return path is None or (path / "vae").is_dir()
