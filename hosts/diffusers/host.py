"""FLUX, its VAE and an adapter on diffusers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...files.progress import Share
from ...flux_patch.adapter import LoadedAdapter
from ...flux_patch.call import DinoCall
from ...flux_patch.families import FAMILIES
from ...flux_patch.geometry import geometry_of
from ...flux_patch.memo import RunMemo
from ...flux_patch.rows import DinoRow, make_call
from ..host import Hint, Text
from ..memory import Memory
from . import vae as vae_path
from .compiled import OrEager, compile_blocks, uncompile
from .controlnet import check_controlnet, control
from .flux import check_models, flux_velocity
from .hooks import DinoHooks
from .offload import Offload, Turns
from .slicing import SlicedAttention

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxControlNetModel, FluxTransformer2DModel


class DiffusersHost:
    """``hosts.host.Host`` on models that compute on one device, frozen but for what the caller unfreezes in the adapter.

    controlnet: acts where there is a ``Hint``. decoder: a small one of the same latents, for ``show`` and ``read``; None: the
    VAE.
    adapter_dtype: None for the models' own; a trainer keeps its adapter in float32. offload: where FLUX and the VAE rest.
    attention_slicing: see ``slicing.py``. compile: FLUX's blocks, see ``compiled.py``. Models are moved, and converted
    where they are of another dtype.
    """

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        vae: AutoencoderKL | AutoencoderTiny,
        *,
        decoder: AutoencoderKL | AutoencoderTiny | None = None,
        controlnet: FluxControlNetModel | None = None,
        adapter: LoadedAdapter | None = None,
        adapter_dtype: torch.dtype | None = None,
        gradient_checkpointing: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        offload: Offload = "none",
        attention_slicing: bool = False,
        compile: bool = False,
    ) -> None:
        check_models(transformer, vae)
        self.device, self.dtype = torch.device(device), dtype or transformer.dtype
        self.turns, self.attention_slicing = Turns(self.device, offload), attention_slicing
        self.transformer = self.turns.add_in_parts(_frozen(transformer, self.dtype))
        self.controlnet = None
        if controlnet is not None:
            check_controlnet(controlnet, transformer)
            self.controlnet = self.turns.add_in_parts(_frozen(controlnet, self.dtype))
        self.vae = self.turns.add(_frozen(vae, self.dtype))
        self.decoder = self.vae
        if decoder is not None:
            check_models(transformer, decoder, name="decoder")
            self.decoder = self.turns.add(_frozen(decoder, self.dtype))
        self.geometry = geometry_of(transformer)
        self.family = self.latents = FAMILIES[self.geometry.family]
        self.adapter, self.hooks = adapter, None
        if adapter is not None:
            adapter.module.check_geometry(self.geometry)
            adapter.module.to(self.device, adapter_dtype or self.dtype)
            self.hooks = DinoHooks(self.transformer, adapter.config)
        if gradient_checkpointing:
            self.transformer.enable_gradient_checkpointing(self._checkpointed)
        self.evaluate: Callable[..., Tensor] = flux_velocity
        if compile:
            compile_blocks(self.transformer, sites=0 if adapter is None else len(adapter.config.sites))
            self.evaluate = OrEager(flux_velocity, self._eager)

    @property
    def memory(self) -> Memory:
        return self.turns.memory

    def relief(self) -> Iterator[str]:
        return self.turns.relief()

    def encode(self, pixels: Tensor, told: Share | None = None) -> Tensor:
        return self._coded(vae_path.encode, self.vae, pixels, told)

    def decode(self, latents: Tensor, told: Share | None = None) -> Tensor:
        return self._coded(vae_path.decode, self.vae, latents, told)

    def show(self, latents: Tensor) -> Tensor:
        return self._coded(vae_path.decode, self.decoder, latents)

    def read(self, pixels: Tensor) -> Tensor:
        return self._coded(vae_path.encode, self.decoder, pixels)

    def load(self, shape: list[int]) -> None:
        self.turns.use(*([self.transformer] if self.controlnet is None else [self.transformer, self.controlnet]))

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
        self.load(list(latents.shape))
        call = None
        if rows and self.adapter is not None:
            call = make_call(
                self.adapter,
                rows,
                sigmas=sigmas.to(latents.device),
                token_size=self.family.tokens(*latents.shape[-2:]),
                percent_to_sigma=lambda percent: 1.0 - percent,  # a flow model's, without shift
                dtype=self.dtype,
                memo=memo,
            )
        attending = call if call is not None and call.adapter.has("cross_attention") else None
        if attending is not None:
            _ = attending.weights  # now, as torch.compile cannot trace what is cached at its first use
        with self._adding(attending), self._slicing():
            added = {}
            if self.controlnet is not None and hint is not None and hint.strength > 0:
                added = control(self.controlnet, latents, sigmas, text=text, hint=hint)
            return self.evaluate(self.transformer, latents, sigmas, text=text, call=call, added=added)

    def check_interrupt(self) -> None:
        """Ctrl-C raises by itself."""

    def remove(self) -> None:
        """Take the adapter off the transformer."""
        if self.hooks is not None:
            self.hooks.remove()

    def _eager(self, *args: Any, **kwargs: Any) -> Tensor:
        uncompile(self.transformer)
        return flux_velocity(*args, **kwargs)

    def _checkpointed(self, block: nn.Module, *inputs: Any) -> Any:
        """A block whose activations are computed again in the backward pass, when the call's DINO rows have gone."""
        call = None if self.hooks is None else self.hooks.call

        def run(*inputs: Any) -> Any:
            with self._adding(call):
                return block(*inputs)

        return checkpoint(run, *inputs, use_reentrant=False)

    def _coded(self, way: Callable[..., Tensor], vae: nn.Module, given: Tensor, told: Share | None = None) -> Tensor:
        stage = "encode" if way is vae_path.encode else "decode"
        with self._slicing():
            return self.turns.spared(partial(way, vae, given, told), stage=stage, model=vae)

    def _slicing(self) -> AbstractContextManager[object]:
        return SlicedAttention() if self.attention_slicing else nullcontext()

    def _adding(self, call: DinoCall | None) -> AbstractContextManager[None]:
        return nullcontext() if self.hooks is None else self.hooks.during(call)


def _frozen(model: Any, dtype: torch.dtype) -> Any:
    """``model`` for inference. Models come in their dtype already; diffusers warns where one is converted."""
    model = model.eval().requires_grad_(False)
    return model if model.dtype == dtype else model.to(dtype)  # in which it computes: 8-bit weights are narrower
