"""What anchor and guidance cost: `python -m benchmarks.guidance.cost`.

Of FLUX.1 dev at 2048 px in four tiles, counted on torch's meta device, where nothing is computed: floating-point operations of a
step, and of anchor and DINO (DINOv2-B) on it, with the small decoder and with FLUX's own VAE; and their share of the sampling.
On the demo's models, measured: processor seconds of a step in each row, taken in turns, and the most bytes that a run has beyond
its models.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinotile.dino.backbone import TransformersBackbone, build_model
from dinotile.dino.encode import DinoEncoder
from dinotile.dino.guidance.autoencoder import Autoencoder, Canvas
from dinotile.dino.guidance.energy import AT_ONCE, DinoEnergy
from dinotile.dino.guidance.start import features_of
from dinotile.dino.guidance.x0 import GuidanceSettings
from dinotile.dino.specs import SPECS
from dinotile.flux_patch.families import FLUX1, plan_tiles
from dinotile.upscaling.joint import flow_sigmas

from ..counts import Counts, Fused
from ..figures import about, publish
from ..vae_strips import random_vae
from .draw import demo_models, draw
from .photos import PHOTO_SETTINGS, photographs, shrunk
from .rows import ANCHOR, ANCHOR_DINO, DINO, OFF

META, HALF = torch.device("meta"), torch.bfloat16
LARGE, SOURCE, TEXT = 2048, 1024, 512  # px, px, tokens
PLAN = plan_tiles(LARGE, LARGE, tile=1024, overlap=128)
STEPS, DENOISE, ENCODER = 20, 0.3, "dinov2-base"
FEW, MANY = 2, 6  # steps of a run on the demo's models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="timed runs of each kind on the demo's models")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    found = {"FLUX.1 dev, 2048 px, counted": flux_size(), "demo, 256 px": demo_size(rounds=options.rounds)}
    publish({"about": about(torch.device("cpu")), "figures": found}, options.json)


def flux_size() -> dict[str, Any]:
    """In 1e12 floating-point operations, and shares of those of sampling with guidance at its defaults."""
    step, encoder, usual = flux_step(), encoding(), GuidanceSettings()
    sigmas = flow_sigmas(STEPS, denoise=DENOISE)
    guided = sum(usual.low * sigmas[0] <= sigma <= usual.high * sigmas[0] for sigma in sigmas[:-1])
    found: dict[str, Any] = {"tiles": PLAN.count, "a step": tera(step), "DINO forwards and backwards": tera(encoder)}
    for name, tiny in (("small decoder", True), ("FLUX's VAE", False)):
        there_and_back = coding(tiny=tiny)
        forces = {"anchor": there_and_back, "anchor and DINO": there_and_back + encoder}
        found[name] = {
            "decoding and encoding": tera(there_and_back),
            "share of sampling": {
                force: round(guided * flops / (STEPS * step + guided * flops), 4) for force, flops in forces.items()
            },
        }
    return {**found, "guided steps": f"{guided} of {STEPS}"}


def tera(flops: int) -> float:
    return round(flops / 1e12, 2)


def counted(call: Callable[[], Any]) -> Counts:
    with Counts() as counts, Fused():
        call()
    return counts


@torch.no_grad()
def flux_step() -> int:
    """Of all tiles."""
    from diffusers import FluxTransformer2DModel

    tokens = PLAN.tile_height * PLAN.tile_width // FLUX1.token**2
    with META:
        flux: Any = FluxTransformer2DModel(guidance_embeds=True).to(HALF).eval()
        inputs = {
            "hidden_states": torch.empty(1, tokens, flux.config.in_channels, dtype=HALF),
            "encoder_hidden_states": torch.empty(1, TEXT, flux.config.joint_attention_dim, dtype=HALF),
            "pooled_projections": torch.empty(1, flux.config.pooled_projection_dim, dtype=HALF),
            "timestep": torch.empty(1),
            "guidance": torch.empty(1),
            "img_ids": torch.empty(tokens, 3),
            "txt_ids": torch.empty(TEXT, 3),
        }
    return PLAN.count * counted(lambda: flux(**inputs, return_dict=False)).flops


def coding(*, tiny: bool) -> int:
    """Of the canvas to the source's size, and of a change of that picture back to it."""
    vae, cells = random_vae(128, tiny=tiny, device=META, dtype=HALF), LARGE // FLUX1.cell
    canvas = Canvas(
        lambda latents: vae.decoder(latents.to(HALF)),
        lambda seen: vae.encoder(seen.to(HALF))[:, : FLUX1.channels],
        (LARGE, LARGE),
    )
    code = Autoencoder(canvas, torch.empty(1, 3, SOURCE, SOURCE, device=META))
    latents = torch.empty(1, FLUX1.channels, cells, cells, device=META)
    return counted(lambda: code.change(code.picture(latents))).flops


def encoding() -> int:
    """Of all that DINO is shown of one estimate, and of the gradient back to it."""
    spec = SPECS[ENCODER]
    with META:
        backbone = TransformersBackbone(build_model(spec).to(HALF).eval().requires_grad_(False), spec)
    source = torch.empty(1, 3, SOURCE, SOURCE, device=META)
    features = features_of(DinoEncoder(backbone, spec, ""))
    energy = DinoEnergy(features, source=source, reachable=source, patch=spec.patch, most_side=spec.max_side)

    def there_and_back(height: int, width: int, side: int) -> Tensor:
        seen = source[..., :height, :width].clone().requires_grad_()
        return torch.autograd.grad(features(seen, side).sum(), seen)[0]

    return AT_ONCE * sum(
        counted(lambda view=view: there_and_back(view.height, view.width, view.side)).flops for view in energy.views
    )


def demo_size(*, rounds: int) -> dict[str, Any]:
    """The step's seconds are the difference of longer and shorter runs: the least of the rounds, by all of its steps."""
    models, (truth,) = demo_models(), photographs(None, count=1).values()
    source, taken = shrunk(truth, 2), {}
    settings = {steps: replace(PHOTO_SETTINGS, denoise=0.5, steps=steps) for steps in (FEW, MANY)}
    rows = (OFF, ANCHOR, DINO, ANCHOR_DINO)
    draw(models, ANCHOR_DINO, source, settings[FEW], other=source)  # the first is slower
    for _ in range(rounds):
        for row in rows:
            for steps in settings:
                start = time.process_time()
                draw(models, row, source, settings[steps], other=source)
                seconds = time.process_time() - start
                key = row.name, steps
                taken[key] = min(seconds, taken.get(key, seconds))
    found = {}
    for row in rows:
        peak = counted(lambda row=row: draw(models, row, source, settings[FEW], other=source)).peak
        step = (taken[row.name, MANY] - taken[row.name, FEW]) / (MANY - FEW)
        found[row.name] = {"processor seconds of a step": round(step, 3), "peak MiB": round(peak / 2**20, 1)}
    return found


if __name__ == "__main__":
    main()
