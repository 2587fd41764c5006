"""What a result is measured by: DINO's agreement with its source, and the borders of its tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dino.encode import DinoEncoder, EncodeSettings
from ..dino.fidelity import Fidelity, agreement
from ..files.pixels import check_pixels, proportional, resize
from ..hosts.finite import finite
from ..tiling.plan import TilePlan
from ..tiling.seams import Seams, measure_seams
from ..tiling.windows import tile_windows

METERED = EncodeSettings()  # whatever an adapter takes, so that figures of different runs can be compared
DIGITS = 5
WORST = 10  # borders that a report names


class FidelityMeter:
    """``Fidelity`` of any results of the same sources [B, 3, h, w], at the size that DINO sees the sources in.

    plain: the sources enlarged, [B, 3, H, W].
    """

    def __init__(self, encoder: DinoEncoder, source: Tensor, plain: Tensor) -> None:
        self.encoder = encoder
        self.size = METERED.size(source.shape[2], source.shape[3], encoder.spec)
        self.source = encoder.encode(source, settings=METERED).patches
        self.plain = self.agreement(plain)

    def __call__(self, result: Tensor) -> Fidelity:
        """Of results [B, 3, H, W] in 0..1."""
        return Fidelity(self.agreement(result), self.plain)

    @torch.no_grad()
    def agreement(self, pixels: Tensor) -> Tensor:
        """[B, h, w]; the features stay out of the encoder's cache, as nobody asks for them again."""
        height, width = self.size
        small = resize(pixels.float(), height=height, width=width).to(self.encoder.backbone.device)
        patches = [self.encoder.features(picture[None], settings=METERED)[0].float().cpu() for picture in small]
        return agreement(finite(torch.cat(patches), "dino"), self.source)


def measure_fidelity(encoder: DinoEncoder, result: Tensor, source: Tensor) -> Fidelity:
    """Of results [B, 3, H, W] and their sources [B, 3, h, w]; ValueError for other numbers and proportions."""
    check_pixels(result)
    check_pixels(source)
    small, large = sorted((each.shape[-2:] for each in (source, result)), key=math.prod)
    if len(result) != len(source) or not proportional(small, large):
        ours, theirs = (f"{len(x)} of {x.shape[-1]} x {x.shape[-2]} px" for x in (result, source))
        raise ValueError(f"results ({ours}) and sources ({theirs}) differ: give as many, of the same proportions")
    plain = resize(source, height=result.shape[-2], width=result.shape[-1])
    return FidelityMeter(encoder, source, plain)(result)


def by_tile(fidelity: Fidelity, plan: TilePlan, *, size: Sequence[int]) -> Fidelity:
    """Of each tile, as far as it is seen: weighted by its window; both [B, tiles]. plan: in px. size: height and width of the
    result, which may be less than the plan's."""
    height, width = fidelity.result.shape[1:]
    pairs = list(zip(plan.boxes, tile_windows(plan), strict=True))
    rows = [_in_patches(row, box.top, side=size[0], patches=height) for box, (row, _) in pairs]
    columns = [_in_patches(column, box.left, side=size[1], patches=width) for box, (_, column) in pairs]
    return fidelity.over(torch.stack(rows), torch.stack(columns))


def _in_patches(profile: Tensor, start: int, *, side: int, patches: int) -> Tensor:
    """A window's weights from pixel ``start`` on as their means over the patches of a side, [patches]."""
    weights = torch.zeros(max(side, start + len(profile)))
    weights[start : start + len(profile)] = profile
    return F.interpolate(weights[None, None, :side], size=patches, mode="area")[0, 0]


def told_fidelity(fidelity: Fidelity, plan: TilePlan, *, size: Sequence[int]) -> dict[str, Any]:
    """For the report; of the tiles, in the plan's order, a list for each picture."""
    tiles = by_tile(fidelity, plan, size=size)
    return rounded({**fidelity.summary(), "tiles": tiles.result.tolist(), "plain_tiles": tiles.plain.tolist()})


def told_seams(result: Tensor, plan: TilePlan, *, source: Tensor) -> dict[str, Any] | None:
    """For the report, with the ``WORST`` borders; None where there are none."""
    if plan.count == 1:
        return None
    seams = measure_seams(result, plan, source=source.to(result))
    return rounded({**seams.summary(), "worst": [asdict(border) for border in seams.worst(WORST)]})


def rounded(told: Any) -> Any:
    """The same with ``DIGITS`` of all its floats."""
    if isinstance(told, dict):
        return {name: rounded(value) for name, value in told.items()}
    if isinstance(told, list):
        return [rounded(value) for value in told]
    return round(told, DIGITS) if isinstance(told, float) else told


def describe_fidelity(fidelity: Fidelity) -> str:
    """One line for people."""
    found = fidelity.summary()
    return (
        f"fidelity {found['score']:.3f}, worst patches {found['worst']:.3f}; plainly enlarged "
        f"{found['plain_score']:.3f} and {found['plain_worst']:.3f}"
    )


def describe_seams(seams: Seams) -> str:
    """One line for people."""
    found, (worst,) = seams.summary(), seams.worst(1)
    axis, across = "yx" if worst.between == "rows" else "xy"
    return (
        f"seams {found['score']:.3f}, rows {found['rows']:.3f}, columns {found['columns']:.3f}; worst at {axis} {worst.at}, "
        f"{across} {worst.start} to {worst.end} px: {worst.ratio:.3f}, a step of {255 * worst.step:.1f} of 255"
    )
