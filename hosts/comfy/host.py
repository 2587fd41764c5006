"""ComfyUI's MODEL and VAE, with an adapter or none."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import torch
from torch import Tensor

from ...files.progress import Share
from ...flux_patch.families import CHROMA, FAMILIES, ModelFamily
from ...flux_patch.geometry import FluxGeometry
from ...flux_patch.memo import RunMemo
from ...flux_patch.rows import DinoRow
from ..finite import finite
from ..host import Hint, Text
from ..memory import in_less
from .adapter import HostAdapter
from .inject import cond_key
from .latents import check_vae, flat, framed, latents_of
from .memory import ManagedMemory, relief
from .model import Wrappers, flux_geometry, patch_flux


class ComfyHost:
    """``hosts.host.Host`` on the models of ComfyUI's sockets; ComfyUI loads, moves and frees them."""

    def __init__(self, model: Any, vae: Any, *, decoder: Any | None = None, adapter: HostAdapter | None = None) -> None:
        """decoder: a small VAE of the same latents, for ``show`` and ``read``; None: the VAE."""
        self.latents = latents_of(model)
        check_vae(self.latents, vae, name="VAE")
        if decoder is not None:
            check_vae(self.latents, decoder, name="decoder")
        self.model, self.vae, self.decoder = model, checked_vae(vae), vae if decoder is None else decoder
        self.device, self.dtype = model.load_device, compute_dtype(model)
        self.adapter = None if adapter is None else adapter.adapter
        self.patcher = model if adapter is None else patch_flux(model, adapter)

    @torch.no_grad()
    def encode(self, pixels: Tensor, told: Share | None = None) -> Tensor:
        self.check_interrupt()
        return self._alone(partial(self._coded, self.vae, pixels, told), stage="encode")

    @torch.no_grad()
    def decode(self, latents: Tensor, told: Share | None = None) -> Tensor:
        return self._alone(partial(self._shown, self.vae, latents, told), stage="decode").clamp_(0, 1).cpu()

    def _alone(self, work: Callable[[], Tensor], *, stage: str) -> Tensor:
        """Work of the VAE; where memory ends, with no other model on the device. Not while FLUX samples, which stays there."""
        memory = ManagedMemory(self.vae.device)
        return in_less(work, stage=stage, ways=relief(memory, [self.vae.patcher.model]), memory=memory)

    @property
    def memory(self) -> ManagedMemory:
        return ManagedMemory(self.device)

    def relief(self) -> Iterator[str]:
        return relief(self.memory, [each.model for each in (self.patcher, *self.patcher.model_patches_models())])

    def show(self, latents: Tensor) -> Tensor:
        return self._shown(self.decoder, latents)

    def read(self, pixels: Tensor) -> Tensor:
        return self._coded(self.decoder, pixels)

    def _coded(self, vae: Any, pixels: Tensor, told: Share | None = None) -> Tensor:
        from . import vae as vae_path  # here, because the host's start waits for what is imported above

        return flat(self.patcher.model.process_latent_in(vae_path.encode(vae, pixels, told))).float()

    def _shown(self, vae: Any, latents: Tensor, told: Share | None = None) -> Tensor:
        from . import vae as vae_path

        inner = self.patcher.model
        return vae_path.decode(vae, inner.process_latent_out(framed(latents, inner)), told).float()

    def velocity(
        self,
        latents: Tensor,
        sigmas: Tensor,
        *,
        text: Text,
        rows: Sequence[DinoRow] = (),
        hint: Hint | None = None,
        memo: RunMemo | None = None,
    ) -> Tensor:
        """hint, memo: not used; ComfyUI's ControlNets come with its conditioning, and its sampling run brings its own memo."""
        self.load(list(latents.shape))
        text = text.of_length(self.family.text_length)
        velocities: list[Tensor] = []

        def keep(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
            velocities.append(executor(*args, **kwargs))
            return velocities[0]

        wrappers = {**self.options["wrappers"]}
        wrappers[Wrappers.DIFFUSION_MODEL] = {**wrappers.get(Wrappers.DIFFUSION_MODEL, {}), "dinotile_velocity": [keep]}
        masked = {}
        if text.mask is not None:  # a view: the host, and what widens masks, wants them square
            length = text.context.shape[1] + math.prod(self.family.tokens(*latents.shape[-2:]))
            bias = text.to(self.device, self.dtype).bias(length, dtype=self.dtype)
            masked = {"attention_mask": bias.expand(len(latents), -1, length, -1)}
        dino = {} if self.adapter is None or not rows else {cond_key(self.adapter): tuple(rows)}
        self.patcher.model.apply_model(
            latents.to(self.device),
            sigmas.to(self.device),
            c_crossattn=text.context.to(self.device).expand(len(latents), -1, -1),
            transformer_options={**self.options, "wrappers": wrappers},
            y=text.pooled.to(self.device).expand(len(latents), -1),
            guidance=torch.full_like(sigmas, 0.0 if self.family is CHROMA else text.guidance, device=self.device),
            **masked,
            **dino,
        )
        return velocities[0].float()

    def check_interrupt(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    @cached_property
    def geometry(self) -> FluxGeometry:
        """ValueError for a model of none of the families of adapters, which is tiled and guided without."""
        return flux_geometry(self.model)

    @cached_property
    def family(self) -> ModelFamily:
        """The same."""
        return FAMILIES[self.geometry.family]

    @cached_property
    def options(self) -> dict[str, Any]:
        """``transformer_options`` of the patched model, as a sampling run would give them."""
        options = comfy.model_patcher.create_model_options_clone(self.patcher.model_options)
        comfy.sampler_helpers.prepare_model_patcher(self.patcher, {}, options)
        return {"wrappers": {}, **options["transformer_options"]}

    def load(self, shape: list[int]) -> None:
        """FLUX onto its device, with room for latents of that shape."""
        required = self.patcher.memory_required(shape)
        comfy.model_management.load_models_gpu([self.patcher], memory_required=required)


def compute_dtype(model: Any) -> torch.dtype:
    """In which the host will compute a MODEL."""
    return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()


def checked_vae(vae: Any) -> Any:
    """The same VAE, which refuses pictures that are not finite before it brings them to 0..1, where infinity is white."""
    checked = copy.copy(vae)
    checked.process_output = lambda image: vae.process_output(finite(image, "decode"))
    return checked
