"""The reference path on diffusers: picture, DINO features, latents, joint tiles, picture."""

# diffusers exports its classes lazily:
# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..dino.encode import DinoEncoder, EncodeSettings, check_pixels
from ..dino.feature_map import FeatureMap
from ..flux_patch.adapter import DinoAdapter
from ..flux_patch.rows import DinoRow
from ..flux_patch.schedule import Strength
from ..hosts.diffusers import vae as vae_path
from ..hosts.diffusers.flux import Text, check_models, predict_velocity
from ..hosts.diffusers.hooks import DinoFlux
from ..tiling.canvas import pad_to_grid, resize
from ..tiling.color import back_project
from ..tiling.plan import TilePlan, canvas_size, plan_tiles
from .joint import TileRow, flow_sigmas, sample
from .report import peak_memory, restart_peak, timed
from .settings import TOKEN, UpscaleSettings

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny, FluxTransformer2DModel

Progress = Callable[[str, int, int], None]  # stage, done, total


class Upscaler:
    """Models on their device, ready for any number of pictures. Keeps no tensors of a picture between calls."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        vae: AutoencoderKL | AutoencoderTiny,
        *,
        dino: DinoEncoder | None = None,
        adapter: DinoAdapter | None = None,
        dino_layers: str = "",
        text: Text | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        check_models(transformer, vae)
        if (dino is None) != (adapter is None):
            given, needed = ("a DINO model", "an adapter") if adapter is None else ("an adapter", "a DINO model")
            raise ValueError(
                f"{given} was given without {needed}: FLUX is guided by both together, give both or neither"
            )
        self.device, self.dtype = torch.device(device), dtype
        self.transformer = _placed(transformer, self.device, dtype)
        self.vae = _placed(vae, self.device, dtype)
        self.dino, self.adapter, self.dino_flux = dino, adapter, None
        if dino is not None and adapter is not None:
            dino.model.to(self.device)
            self.adapter = _placed(adapter, self.device, dtype)
            self.encode_settings = EncodeSettings(layers=dino_layers or adapter.config.layers)
            _check_pair(dino, adapter, self.encode_settings)
            self.dino_flux = DinoFlux(self.transformer, self.adapter)
        text = text or Text.empty(
            context=transformer.config["joint_attention_dim"], pooled=transformer.config["pooled_projection_dim"]
        )
        self.text = Text(text.context.to(self.device, dtype), text.pooled.to(self.device, dtype))

    @torch.no_grad()
    def upscale(
        self, pixels: Tensor, settings: UpscaleSettings, *, progress: Progress | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """``pixels`` [B,3,H,W] in 0..1 -> the same pictures ``scale`` times as large, and what was done as a dict.

        The result depends on the pictures, the models and the settings only; never on ``tile_batch``. Raises ValueError
        for NaN, an empty batch or wrong channels.
        """
        check_pixels(pixels)
        seconds: dict[str, float] = {}
        restart_peak(self.device)
        height, width = settings.output_size(*pixels.shape[-2:])
        plan = plan_tiles(
            *canvas_size(height, width, grid=TOKEN), tile=settings.tile, overlap=settings.overlap, grid=TOKEN
        )
        with timed(seconds, "dino"):
            guide = self._guide(pixels, settings, canvas=(height, width))
        with timed(seconds, "encode"):
            canvas = pad_to_grid(resize(pixels, height=height, width=width), grid=TOKEN)
            latents = vae_path.encode(self.vae, canvas)
        sigmas = schedule(plan, settings)
        batch = settings.tile_batch or default_tile_batch(self.device, plan)
        with timed(seconds, "sample"):
            latents = sample(
                lambda x, sigma, rows: self._velocity(x, sigma, rows, settings=settings, guide=guide),
                latents.to(self.device),
                noise=seeded_noise(latents.shape, seed=settings.seed).to(self.device),
                sigmas=sigmas,
                plan=plan.scaled(vae_path.CELL),
                tile_batch=batch,
                progress=None if progress is None else lambda done, total: progress("sample", done, total),
            )
        with timed(seconds, "decode"):
            result = vae_path.decode(self.vae, latents.cpu())[..., :height, :width].contiguous()
            result = back_project(result, pixels.to(result), fidelity=settings.fidelity)
        report = {
            "input": {"height": pixels.shape[-2], "width": pixels.shape[-1], "batch": pixels.shape[0]},
            "output": {"height": height, "width": width},
            "canvas": {"height": plan.height, "width": plan.width},
            "tiles": {
                "count": plan.count,
                "rows": len(plan.tops),
                "columns": len(plan.lefts),
                "height": plan.tile_height,
                "width": plan.tile_width,
                "overlap": plan.overlap,
                "batch": batch,
            },
            "dino": None if guide is None else {"model": guide.tokens.spec, "layers": guide.tokens.layers},
            "steps": len(sigmas) - 1,
            "sigmas": [round(sigma, 6) for sigma in sigmas],
            "settings": asdict(settings),
            "seconds": seconds,
            "peak_memory": peak_memory(self.device),
        }
        return result, report

    def _guide(self, pixels: Tensor, settings: UpscaleSettings, *, canvas: tuple[int, int]) -> _Guide | None:
        if self.dino is None or self.adapter is None or settings.dino_strength == 0:
            return None
        features = self.dino.encode(pixels, settings=self.encode_settings, device=self.device)
        tokens = self.adapter.project(features.to(self.device, self.dtype))
        return _Guide(tokens, Strength(settings.dino_strength), canvas)

    def _velocity(
        self, x: Tensor, sigma: float, rows: Sequence[TileRow], *, settings: UpscaleSettings, guide: _Guide | None
    ) -> Tensor:
        """With DINO guidance w: null + w * (found - null), where null is with the adapter's learned null in DINO's place."""

        def predicted(dino_rows: Sequence[DinoRow]) -> Tensor:
            return predict_velocity(
                self.transformer,
                x,
                sigma=sigma,
                text=self.text,
                guidance=settings.guidance,
                dino=None if guide is None else self.dino_flux,
                rows=dino_rows,
                memo=None if guide is None else guide.memo,
            )

        if guide is None:
            return predicted([])
        dino_rows = [guide.row(row) for row in rows]
        found = predicted(dino_rows)
        if settings.dino_guidance == 1:
            return found
        null = predicted([replace(row, tokens=None) for row in dino_rows])
        return null + settings.dino_guidance * (found - null)


@dataclass(frozen=True)
class _Guide:
    """The DINO tokens of one call's pictures, which cover ``canvas`` (height, width in pixels, without padding)."""

    tokens: FeatureMap
    strength: Strength
    canvas: tuple[int, int]
    memo: dict = field(default_factory=dict)

    def row(self, row: TileRow) -> DinoRow:
        height, width = (side / vae_path.CELL for side in self.canvas)
        return DinoRow(self.tokens, row.image, row.box.fractions(height, width), self.strength)


def _check_pair(dino: DinoEncoder, adapter: DinoAdapter, settings: EncodeSettings) -> None:
    """Refuse an adapter for another encoder now, and not after the first picture's features."""
    none = torch.empty(0)
    adapter.check_features(FeatureMap(none, none, dino.spec.name, settings.canonical(dino.spec), (0, 0)))


def _placed(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """``model`` for inference there. Models come in their dtype already; diffusers warns where one is converted."""
    model = model.to(device).eval()
    return model if next(model.parameters()).dtype == dtype else model.to(dtype)


def schedule(plan: TilePlan, settings: UpscaleSettings) -> list[float]:
    """The noise levels for a plan in pixels."""
    tokens = plan.tile_height * plan.tile_width // TOKEN**2 if settings.dynamic_shift else None
    return flow_sigmas(settings.steps, strength=settings.strength, tokens=tokens)


def seeded_noise(shape: Sequence[int], *, seed: int) -> Tensor:
    """The same noise on every machine: drawn on the CPU, as ComfyUI does."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def default_tile_batch(device: torch.device, plan: TilePlan) -> int:
    """Tiles per model call: 8 on the CPU; on CUDA 1 to 4, one per GiB and 4096 tokens in half of the free memory."""
    if device.type == "cpu":
        return 8
    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    per_tile = 2**30 * plan.tile_height * plan.tile_width / (4096 * TOKEN**2)
    return int(min(4, max(1, free / 2 // per_tile)))
