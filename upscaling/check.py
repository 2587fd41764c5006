"""What is looked at when a result is there: its meters, and the second try of tiles that fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..dino.encode import DinoEncoder
from ..files.progress import Progress
from ..tiling.plan import TilePlan
from .meters import FidelityMeter, told_fidelity, told_seams
from .report import timed
from .retry import retry


def check(
    result: Tensor,
    *,
    source: Tensor,
    plain: Tensor,
    plan: TilePlan,
    encoder: DinoEncoder | None,
    threshold: float,
    again: Callable[[Tensor], Tensor],
    seconds: dict[str, float],
    progress: Progress | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """The result [B, 3, H, W], with failed tiles done again, and what the report says of it.

    source: [B, 3, h, w]. plain: it enlarged, [B, 3, H, W]. plan: the tiles of the last step, in px.
    encoder: whose eyes compare the result with its source; None: nobody's. threshold, again: of ``retry``; 0 tries nothing.
    """
    told: dict[str, Any] = {"fidelity": None, "retry": None}
    if encoder is not None:
        with timed(seconds, "measure", progress):
            meter = FidelityMeter(encoder, source, plain)
            fidelity = meter(result)
        if threshold > 0:
            with timed(seconds, "retry", progress):
                result, fidelity, told["retry"] = retry(
                    result, fidelity, threshold=threshold, meter=meter, plain=plain, plan=plan, again=again
                )
        told["fidelity"] = told_fidelity(fidelity, plan, size=result.shape[-2:])
    with timed(seconds, "measure"):
        told["seams"] = told_seams(result, plan, source=plain)
    return result, told
