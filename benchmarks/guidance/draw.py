"""A picture as a row says, on the demo's models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dinotile import demo
from dinotile.dino.encode import DinoEncoder
from dinotile.dino.load import load_dino
from dinotile.flux_patch.checkpoint import load_adapter
from dinotile.hosts.diffusers.load import load_transformer, load_vae
from dinotile.hosts.host import Estimates, Text
from dinotile.upscaling.joint import JointEuler
from dinotile.upscaling.pipeline import upscale
from dinotile.upscaling.settings import UpscaleSettings
from dinotile.upscaling.upscaler import Upscaler

from .rows import DEMO, Row


@dataclass(frozen=True, eq=False)
class Models:
    """plain, adapted: FLUX without and with the demo's adapter and DINO. encoders: by the names that rows use."""

    plain: Upscaler
    adapted: Upscaler
    encoders: Mapping[str, DinoEncoder]


def demo_models(encoders: Mapping[str, DinoEncoder] | None = None) -> Models:
    """float32, on the CPU. encoders: beside the demo's."""
    dino = load_dino(demo.DINO)
    plain, adapted = ((load_transformer(demo.FLUX), load_vae(demo.VAE)) for _ in range(2))
    return Models(
        Upscaler(*plain),
        Upscaler(*adapted, dino=dino, adapter=load_adapter(demo.ADAPTER)),
        {DEMO: dino, **(encoders or {})},
    )


def draw(
    models: Models, row: Row, source: Tensor, settings: UpscaleSettings, *, other: Tensor
) -> tuple[Tensor, dict[str, Any]]:
    """``source`` [1, 3, h, w] upscaled, with no back-projection, and the report. other: the source of another picture."""
    upscaler = models.adapted if row.adapter else models.plain
    settings = replace(settings, fidelity=0.0, **row.changes)
    return upscale(
        upscaler.host,
        source,
        settings,
        sampler=Repeated(upscaler.host, Text.empty(upscaler.host.geometry), settings, times=row.times),
        make_guide=upscaler.guide(strength=settings.dino_strength) if row.adapter else None,
        encoder=models.encoders[row.encoder] if row.encoder else None,
        shown=other if row.elsewhere else None,
    )


class Repeated(JointEuler):
    """Moves each estimate several times, the cost of several energies spent on one."""

    def __init__(self, *args: Any, times: int) -> None:
        super().__init__(*args)
        self.times = times

    def __call__(self, latents: Tensor, *, estimates: Estimates | None = None, **options: Any) -> Tensor:
        def repeated(x0: Tensor, sigma: float, *, start: float) -> Tensor:
            for _ in range(self.times):
                x0 = estimates(x0, sigma, start=start)
            return x0

        return super().__call__(latents, estimates=None if estimates is None else repeated, **options)
