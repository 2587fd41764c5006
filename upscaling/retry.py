"""Look at the tiles of a result, and do those again that DINO does not recognise."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..dino.fidelity import Fidelity
from ..tiling.canvas import cut
from ..tiling.plan import TilePlan
from ..tiling.windows import tile_windows, window
from .meters import FidelityMeter, by_tile, rounded

log = logging.getLogger("dinotile")


def retry(
    result: Tensor,
    fidelity: Fidelity,
    *,
    threshold: float,
    meter: FidelityMeter,
    plain: Tensor,
    plan: TilePlan,
    again: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Fidelity, list[dict[str, Any]]]:
    """Results [B, 3, H, W] whose failed tiles were sampled again, their fidelity, and what became of each of those tiles.

    A tile fails whose agreement with the source is below ``threshold`` times that of ``plain``, the enlarged pictures. again:
    the pictures with new samples where the weights [B, 1, h, w] over the latent canvas are above 0. What then still fails is
    mixed with ``plain``, by as much as a straight line between the two agreements says. Both are kept only in tiles whose
    agreement rises; outside of the windows of failed tiles nothing changes, bit for bit. plan: in px.
    """
    first = by_tile(fidelity, plan, size=result.shape[-2:])
    needed = threshold * first.plain
    failed = first.result < needed  # [B, N]
    if not failed.any():
        return result, fidelity, []
    new = again(spread(failed.float(), plan.latent))
    result, fidelity, kept = mix(result, new, failed.float(), fidelity, meter=meter, plan=plan)
    second = by_tile(fidelity, plan, size=result.shape[-2:])
    share = (needed - second.result) / (second.plain - second.result)
    share = torch.where(failed & (second.result < needed), share, 0.0)
    result, fidelity, blended = mix(result, plain.to(result), share, fidelity, meter=meter, plan=plan)
    last = by_tile(fidelity, plan, size=result.shape[-2:])
    figures = {"before": first.result, "needed": needed, "kept": kept, "blended": blended, "after": last.result}
    told = rounded(
        [
            {"picture": image + 1, "tile": tile + 1} | {name: float(of[image, tile]) for name, of in figures.items()}
            for image, tile in failed.nonzero().tolist()
        ]
    )
    for each in told:
        log.info("retry: %s", ", ".join(f"{name} {value:g}" for name, value in each.items()))
    return result, fidelity, told


def mix(
    result: Tensor, other: Tensor, share: Tensor, fidelity: Fidelity, *, meter: FidelityMeter, plan: TilePlan
) -> tuple[Tensor, Fidelity, Tensor]:
    """``other`` in the place of results by shares of tiles [B, N], but only in tiles whose agreement rises by that; with the
    new fidelity and the shares that were kept."""
    height, width = result.shape[-2:]
    before = by_tile(fidelity, plan, size=(height, width)).result
    while share.any():
        mixed = torch.lerp(result, other, spread(share, plan)[..., :height, :width].to(result))
        found = meter(mixed)
        rose = torch.where(by_tile(found, plan, size=(height, width)).result > before, share, 0.0)
        if torch.equal(rose, share):
            return mixed, found, share
        share = rose  # a tile that is left out changes its neighbours, so they are measured again
    return result, fidelity, share


def spread(share: Tensor, plan: TilePlan) -> Tensor:
    """Shares of tiles [B, N] over their canvas by the tiles' windows, [B, 1, height, width]; 0 outside of these."""
    out = torch.zeros(len(share), 1, plan.height, plan.width)
    for part, box, pair in zip(share.T, plan.boxes, tile_windows(plan), strict=True):
        if part.any():
            cut(out, box).add_(part[:, None, None, None] * window(pair))
    return out.clamp_(max=1)
