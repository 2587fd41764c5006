"""Models on their device, ready for any number of pictures, without ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..dino.encode import DinoEncoder
from ..dino.feature_map import FeatureMap
from ..files.progress import Progress
from ..flux_patch.adapter import LoadedAdapter
from ..flux_patch.tokens import DinoTokens
from ..hosts.diffusers.host import DiffusersHost
from ..hosts.diffusers.offload import Offload, TakesTurns
from ..hosts.host import Text
from .guides import WholePicture, check_pair, whole_picture
from .joint import JointEuler
from .masks import EVERYWHERE, Masks, flat
from .pipeline import MakeGuide, upscale
from .report import model_memory, peak_memory, restart_peak
from .settings import UpscaleSettings

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxTransformer2DModel


class Upscaler:
    """``pipeline.upscale`` on diffusers' models. Keeps no tensors of a picture between calls, but for the encoder's cache."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        vae: AutoencoderKL | AutoencoderTiny,
        *,
        decoder: AutoencoderKL | AutoencoderTiny | None = None,
        dino: DinoEncoder | None = None,
        adapter: LoadedAdapter | None = None,
        dino_layers: str = "",
        dino_uses: Sequence[str] = (),
        text: Text | None = None,
        negative: Text | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        offload: Offload = "none",
        attention_slicing: bool = False,
        compile: bool = False,
    ) -> None:
        """dino_uses: of ``UpscaleSettings``; with one of them a DINO model needs no adapter."""
        check_pair(dino, adapter, uses=dino_uses)
        self.host = DiffusersHost(
            transformer,
            vae,
            decoder=decoder,
            adapter=adapter,
            device=device,
            dtype=dtype,
            offload=offload,
            attention_slicing=attention_slicing,
            compile=compile,
        )
        self.text, self.negative = text or Text.empty(self.host.geometry), negative
        self.dino, self.dino_layers = dino, dino_layers
        self.guided = adapter is not None
        if self.guided:
            self.guide(strength=1.0)  # refuses a wrong pair now, and not after the first picture
        if dino is not None:
            self.dino = DinoEncoder(
                TakesTurns(dino.backbone, self.host.turns), dino.spec, dino.fingerprint, cache=dino.cache
            )

    def guide(self, *, strength: float, mask: Tensor | None = None) -> WholePicture:
        """Who gives each tile its DINO row where the caller brings nobody else; there must be a DINO model and its adapter."""
        assert self.dino is not None
        return whole_picture(self.host, self.dino, self._project, strength=strength, layers=self.dino_layers, mask=mask)

    def upscale(
        self,
        pixels: Tensor,
        settings: UpscaleSettings,
        *,
        masks: Masks = EVERYWHERE,
        make_guide: MakeGuide | None = None,
        shown: Tensor | None = None,
        progress: Progress | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """``pipeline.upscale``; without ``make_guide`` DINO looks at the whole picture, where there is an adapter."""
        masks.check(*pixels.shape[-2:], guided=self.guided)
        if make_guide is None and self.guided:
            make_guide = self.guide(strength=settings.dino_strength, mask=flat(masks.dino))
        sampler = JointEuler(self.host, self.text, settings, negative=self.negative)
        restart_peak(self.host.device)
        result, report = upscale(
            self.host,
            pixels,
            settings,
            sampler=sampler,
            make_guide=make_guide,
            encoder=self.dino,
            shown=shown,
            denoise_mask=masks.denoise,
            progress=progress,
        )
        adapter = None if self.host.adapter is None else self.host.adapter.module
        models = {"flux": self.host.transformer, "vae": self.host.vae, "adapter": adapter}
        kept = model_memory(**models, dino=None if self.dino is None else self.dino.model)
        return result, {**report, "peak_memory": peak_memory(self.host.device), "model_memory": kept}

    def _project(self, features: FeatureMap) -> DinoTokens:
        assert self.host.adapter is not None
        return self.host.adapter.module.project(features.to(self.host.device, self.host.dtype))
