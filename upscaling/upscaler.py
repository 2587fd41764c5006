"""Models on their device, ready for any number of pictures, without ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..dino.encode import DinoEncoder
from ..dino.feature_map import FeatureMap
from ..files.errors import kind_of
from ..files.pixels import check_pixels
from ..files.progress import Progress
from ..flux_patch.adapter import LoadedAdapter
from ..flux_patch.redux import ReduxTokens, picture_tokens
from ..flux_patch.schedule import Strength
from ..flux_patch.tokens import DinoTokens
from ..hosts.diffusers.host import DiffusersHost
from ..hosts.diffusers.offload import Offload, TakesTurns
from ..hosts.diffusers.redux import ReduxTeacher
from ..hosts.diffusers.texts import Texts
from ..hosts.diffusers.upscale_model import UpscaleModel, enlarge
from ..hosts.host import Text
from ..hosts.memory import shortages_told
from ..tiling.canvas import scaled_size
from .alone import alone
from .guides import WholePicture, check_pair, whole_picture
from .joint import JointEuler
from .masks import EVERYWHERE, Masks, flat
from .pipeline import MakeGuide, upscale
from .prints import Prints
from .report import model_memory, peak_memory, restart_peak
from .rows import Pixels, Source, reduced
from .sequential import LOOK, OpenStore, Redo, WriteRows, upscale_tiles
from .settings import UpscaleSettings

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxControlNetModel, FluxTransformer2DModel


class Upscaler:
    """``pipeline.upscale`` on diffusers' models. Keeps no tensors of a picture between calls, but for the encoder's cache.

    Threads may share one, and those of one FLUX: they wait for each other, and each picture is as it would be alone.
    """

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        vae: AutoencoderKL | AutoencoderTiny,
        *,
        decoder: AutoencoderKL | AutoencoderTiny | None = None,
        controlnet: FluxControlNetModel | None = None,
        upscale_model: UpscaleModel | None = None,
        dino: DinoEncoder | None = None,
        adapter: LoadedAdapter | None = None,
        dino_layers: str = "",
        dino_uses: Sequence[str] = (),
        redux: ReduxTeacher | None = None,
        text: Text | None = None,
        negative: Text | None = None,
        texts: Texts | Mapping[str, Text] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        offload: Offload = "none",
        attention_slicing: bool = False,
        compile: bool = False,
    ) -> None:
        """dino_uses: of ``UpscaleSettings``; with one of them a DINO model needs no adapter. texts: of further prompts."""
        check_pair(dino, adapter, uses=dino_uses)
        self.models = {
            "flux": transformer,
            "vae": vae,
            "decoder": decoder,
            "controlnet": controlnet,
            "upscale_model": None if upscale_model is None else upscale_model.module,
            "adapter": None if adapter is None else adapter.module,
            "dino": None if dino is None else dino.model,
            "redux": None if redux is None else redux.model,
        }
        self.prints = Prints(self.models, dino=dino, adapter=adapter, upscale_model=upscale_model)  # before any moves
        self.host = DiffusersHost(
            transformer,
            vae,
            decoder=decoder,
            controlnet=controlnet,
            adapter=adapter,
            device=device,
            dtype=dtype,
            offload=offload,
            attention_slicing=attention_slicing,
            compile=compile,
        )
        self.text, self.negative = text or Text.empty(self.host.geometry), negative
        self.texts = Texts.given(texts) if isinstance(texts, Mapping) else texts
        self.dino, self.dino_layers, self.redux = dino, dino_layers, redux
        self.guided, self.upscale_model = adapter is not None, upscale_model
        if upscale_model is not None:
            self.host.turns.add(upscale_model.module)
        if redux is not None:
            if redux.width != self.host.geometry.context:
                raise ValueError(
                    f"Redux gives tokens {redux.width} wide, the FLUX model takes {self.host.geometry.context}: give the FLUX.1 "
                    "that Redux was made for"
                )
            self.host.turns.add(redux.model)
        if self.guided:
            self.guide(strength=1.0)  # refuses a wrong pair now, and not after the first picture
        if dino is not None:
            self.dino = DinoEncoder(
                TakesTurns(dino.backbone, self.host.turns), dino.spec, dino.fingerprint, cache=dino.cache
            )

    def __repr__(self) -> str:
        parts = {
            "dino": self.dino,
            "adapter": self.host.adapter,
            "redux": self.redux,
            "upscale_model": self.upscale_model,
        }
        used = [name for name, part in parts.items() if part is not None]
        return f"Upscaler({self.host.family.title} on {self.host.device}, with {', '.join(used) or 'nothing else'})"

    def with_prompt(self, prompt: str) -> Upscaler:
        """The same models, told another of the prompts that they were loaded with; ValueError for one that is none of them."""
        if self.texts is None:
            raise ValueError(
                "there is no text but the one that these models were made with: load_upscaler encodes its prompts by a whole "
                "pipeline, and Upscaler takes encoded ones as texts"
            )
        other = copy(self)
        with alone(self.host.transformer):  # which may have to make room
            other.text = self.texts.of(prompt, self.host.turns)
        return other

    def guide(self, *, strength: float, mask: Tensor | None = None) -> WholePicture:
        """Who gives each tile its DINO row where the caller brings nobody else; there must be a DINO model and its adapter."""
        assert self.dino is not None
        return whole_picture(self.host, self.dino, self._project, strength=strength, layers=self.dino_layers, mask=mask)

    @shortages_told()
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
        """``pipeline.upscale``; without ``make_guide`` DINO looks at the whole picture, where there is an adapter. In mode
        sequential, ``upscale_tiles`` of a picture that is all there; its report is the last picture's. A callback of a picture
        cannot ask for another one."""
        check_pixels(pixels)
        if not isinstance(settings, UpscaleSettings):
            raise ValueError(
                f"settings are {kind_of(settings)}, needed are UpscaleSettings: make them by settings_for(variant, scale=2)"
            )
        masks.check(*pixels.shape[-2:], pictures=len(pixels), guided=self.guided or settings.guide > 0)
        if settings.mode == "sequential":
            if make_guide is not None or shown is not None:
                raise ValueError("mode sequential takes no guide but the upscaler's own: set mode to joint")
            return self._one_after_the_other(pixels, settings, masks=masks, progress=progress)
        with self._working():
            if make_guide is None and self.guided:
                make_guide = self.guide(strength=settings.dino_strength, mask=flat(masks.dino))
            restart_peak(self.host.device)
            redux = self.shown_by_redux(pixels if shown is None else shown, settings)
            sampler, gentler = (self._sampler(each, redux) for each in (settings, settings.gentler))
            result, report = upscale(
                self.host,
                pixels,
                settings,
                sampler=sampler,
                make_guide=make_guide,
                encoder=self.dino,
                shown=shown,
                enlarge=None if self.upscale_model is None else partial(self._enlarged, progress=progress),
                masks=masks,
                gentler=gentler,
                progress=progress,
            )
            return result, self._reported(report)

    @contextmanager
    def _working(self) -> Iterator[None]:
        with alone(self.host.transformer):
            try:
                yield
            finally:
                self.host.turns.restore()  # for the next picture, where memory ended for this one

    def upscale_tiles(
        self,
        source: Source,
        settings: UpscaleSettings,
        *,
        write: WriteRows,
        masks: Masks = EVERYWHERE,
        open_store: OpenStore | None = None,
        redo: Redo | None = None,
        only: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """``sequential.upscale_tiles``: rows of the result go to ``write``, which cannot ask for another picture."""
        with self._working():
            masks.check(source.height, source.width, guided=self.guided)
            make_guide = None
            if self.guided:
                make_guide = self.guide(strength=settings.dino_strength, mask=flat(masks.dino))
            restart_peak(self.host.device)
            redux = None
            if self.redux is not None:
                size = source.height, source.width
                redux = self.shown_by_redux(reduced(source, longest=LOOK), settings, size=size)
            report = upscale_tiles(
                self.host,
                source,
                settings,
                sampler=self._sampler(settings, redux),
                write=write,
                make_guide=make_guide,
                encoder=self.dino,
                enlarge=None if self.upscale_model is None else partial(self._enlarged, progress=None),
                masks=masks,
                open_store=open_store,
                made_by="" if open_store is None else self.fingerprint(),
                redo=redo,
                only=only,
                progress=progress,
            )
            return self._reported(report)

    def _one_after_the_other(
        self, pixels: Tensor, settings: UpscaleSettings, *, masks: Masks, progress: Progress | None
    ) -> tuple[Tensor, dict[str, Any]]:
        results, report = [], {}
        for number, picture in enumerate(pixels.split(1)):
            rows: list[Tensor] = []
            own = masks.of(number)
            report = self.upscale_tiles(Pixels(picture), settings, write=rows.append, masks=own, progress=progress)
            results.append(torch.cat(rows, dim=2))
        return torch.cat(results), {**report, "input": {**report["input"], "batch": len(pixels)}}

    def fingerprint(self) -> str:
        """Of all that a picture depends on, but for itself and the settings: models and texts."""
        return self.prints.of_all(self.text, self.negative, dino_layers=self.dino_layers)

    def identity(self) -> dict[str, Any]:
        """What a report says of the models and where they compute, before there is one."""
        return self.prints.described(self.text, self.negative, device=self.host.device, dtype=self.host.dtype)

    def _sampler(self, settings: UpscaleSettings, redux: tuple[ReduxTokens, tuple[float, float]] | None) -> JointEuler:
        return JointEuler(self.host, self.text, settings, negative=self.negative, redux=redux)

    def _reported(self, report: dict[str, Any]) -> dict[str, Any]:
        enlarged = None if self.upscale_model is None else self.upscale_model.describe()
        kept = model_memory(**self.models)
        report = {**report, "upscale_model": enlarged, **self.identity()}
        return {**report, "peak_memory": peak_memory(self.host.device), "model_memory": kept}

    def shown_by_redux(
        self, pixels: Tensor, settings: UpscaleSettings, *, size: tuple[int, int] | None = None
    ) -> tuple[ReduxTokens, tuple[float, float]] | None:
        """For ``JointEuler``; None where there is no Redux, or it has no say. size: of the pictures, where these are smaller."""
        if self.redux is None or settings.redux_strength == 0:
            return None
        check_pixels(pixels)
        look = partial(picture_tokens, self.redux, pixels)
        tokens = self.host.turns.spared(look, stage="redux", model=self.redux.model)
        result = scaled_size(*(size or pixels.shape[-2:]), scale=settings.scale)
        height, width = (side / self.host.latents.cell for side in result)
        return ReduxTokens(tokens, settings.redux_grid, Strength(settings.redux_strength)), (height, width)

    def _enlarged(self, pixels: Tensor, *, progress: Progress | None) -> Tensor:
        assert self.upscale_model is not None
        check = self.host.check_interrupt
        larger = partial(enlarge, self.upscale_model, pixels, device=self.host.device, progress=progress, check=check)
        return self.host.turns.spared(larger, stage="enlarge", model=self.upscale_model.module)

    def _project(self, features: FeatureMap) -> DinoTokens:
        assert self.host.adapter is not None
        return self.host.adapter.module.project(features.to(self.host.device, self.host.dtype))
