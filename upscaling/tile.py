"""One tile of a picture in pixel space: what it is made of, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor

from ..dino.guidance.autoencoder import Canvas
from ..dino.guidance.start import guided_estimates
from ..dino.guidance.x0 import GuidedEstimates
from ..files.progress import Progress
from ..files.resampling import Span, applied, span, within
from ..flux_patch.guide import Guide, PartGuide
from ..flux_patch.latents import Latents
from ..hosts.finite import finite
from ..hosts.host import Host
from ..tiling.canvas import cut
from ..tiling.color_match import match_color
from ..tiling.mosaic import Mosaic
from ..tiling.noise import placed_noise
from ..tiling.plan import Box, TilePlan
from .pipeline import Sampler
from .report import timed
from .rows import Source
from .settings import UpscaleSettings

HALO = 16  # px of the source around a tile's, for an upscale model to look at


@dataclass(frozen=True, eq=False)
class Ground:
    """The enlarged picture, part by part. size: height and width of the result in px. enlarge: makes the first enlargement of a
    part; None: bicubic."""

    source: Source
    size: tuple[int, int]
    enlarge: Callable[[Tensor], Tensor] | None = None

    def part(self, box: Box) -> Tensor:
        """[1, 3, h, w] of a box of the canvas, whose last row and column are repeated beyond the picture."""
        seen = self.inside(box)
        if self.enlarge is None:
            rows = span(seen.top, seen.bottom, side=self.size[0], source=self.source.height)
            columns = span(seen.left, seen.right, side=self.size[1], source=self.source.width)
            out = applied(rows, columns, self.source.rows(rows.first, rows.last), top=rows.first)
        else:
            out = self._enlarged(seen)
        return F.pad(out.clamp_(0, 1), (0, box.right - seen.right, 0, box.bottom - seen.bottom), mode="replicate")

    def inside(self, box: Box) -> Box:
        """What of a box lies on the picture."""
        return Box(box.top, box.left, min(box.bottom, self.size[0]) - box.top, min(box.right, self.size[1]) - box.left)

    def below(self, box: Box, *, halo: int = 0) -> Box:
        """The pixels of the source under a box of the picture."""
        high, wide = self.source.height / self.size[0], self.source.width / self.size[1]
        top, left = max(0, int(box.top * high) - halo), max(0, int(box.left * wide) - halo)
        bottom = min(self.source.height, int(-(-box.bottom * high // 1)) + halo)
        right = min(self.source.width, int(-(-box.right * wide // 1)) + halo)
        return Box(top, left, bottom - top, right - left)

    def under(self, box: Box) -> Tensor:
        """[1, 3, h, w] of a box of the source."""
        return self.source.rows(box.top, box.bottom)[..., box.left : box.right]

    def _enlarged(self, seen: Box) -> Tensor:
        assert self.enlarge is not None
        below = self.below(seen, halo=HALO)
        larger = finite(self.enlarge(self.under(below)), "enlarge").float().cpu()
        factor = larger.shape[-1] // below.width
        top, left = factor * below.top, factor * below.left
        rows = span(seen.top, seen.bottom, side=self.size[0], source=factor * self.source.height)
        columns = span(seen.left, seen.right, side=self.size[1], source=factor * self.source.width)
        rows, columns = within(rows, top, factor * below.bottom), within(columns, left, factor * below.right)
        return applied(rows, columns, larger, top=top, left=left)

    def back_projected(self, tile: Tensor, box: Box, *, fidelity: float) -> Tensor:
        """``tiling.color.back_project`` for a tile [1, 3, h, w] in its box of the canvas, in place: by the source under it alone,
        so that it is another at the tile's inner borders, where its window ends."""
        if fidelity == 0:
            return tile
        footing = self.footing(box)
        own = cut(tile, Box(0, 0, footing.seen.height, footing.seen.width))
        own.add_(fidelity * footing.enlarged(footing.pixels - footing.shrunk(own))).clamp_(0, 1)
        return tile

    def footing(self, box: Box) -> Footing:
        seen = self.inside(box)
        below = self.below(seen)
        rows = below.top, below.bottom, self.source.height, self.size[0], seen.top, seen.bottom
        columns = below.left, below.right, self.source.width, self.size[1], seen.left, seen.right
        return Footing(self.under(below), seen, below, _to_and_fro(*rows), _to_and_fro(*columns))


@dataclass(frozen=True, eq=False)
class Footing:
    """What of a tile lies on the picture, the source's pixels [1, 3, h, w] below it, and the ways between: the same resizing as
    of the whole picture, by what lies in the tile alone. rows, columns: to the source and back."""

    pixels: Tensor
    seen: Box
    below: Box
    rows: tuple[Span, Span]
    columns: tuple[Span, Span]

    def shrunk(self, own: Tensor) -> Tensor:
        return applied(self.rows[0], self.columns[0], own, top=self.seen.top, left=self.seen.left)

    def enlarged(self, small: Tensor) -> Tensor:
        return applied(self.rows[1], self.columns[1], small, top=self.below.top, left=self.below.left)


@dataclass(frozen=True)
class TileCanvas(Canvas):
    """A tile whose source is the part below it; sides of the tile and of that part need not be in the proportion of the whole."""

    footing: Footing

    def shrunk(self, shown: Tensor, *, size: tuple[int, int]) -> Tensor:
        return self.footing.shrunk(shown)

    def enlarged(self, picture: Tensor) -> Tensor:
        return self.footing.enlarged(picture)


def _to_and_fro(first: int, last: int, small: int, large: int, start: int, stop: int) -> tuple[Span, Span]:
    """Along an axis: entries ``first`` .. ``last`` of the small picture from ``start`` .. ``stop`` of the large one, and back."""
    shrunk = within(span(first, last, side=small, source=large), start, stop)
    return shrunk, within(span(start, stop, side=large, source=small), first, last)


def part_of_mask(mask: Tensor, box: Box, *, size: tuple[int, int], latents: Latents) -> Tensor:
    """``masks.in_cells`` for a box of the canvas: [1, 1, h, w] in latent cells of a mask [1, 1, H, W] over a picture of that
    size."""
    bottom, right = min(box.bottom, size[0]), min(box.right, size[1])
    rows = span(box.top, bottom, side=size[0], source=mask.shape[-2], kind="linear")
    columns = span(box.left, right, side=size[1], source=mask.shape[-1], kind="linear")
    part = applied(rows, columns, mask.float().cpu())
    part = F.pad(part, (0, box.right - right, 0, box.bottom - bottom), mode="replicate")
    return F.avg_pool2d(part, latents.cell).clamp(0, 1)


def context_mask(share: Tensor, *, latents: Latents) -> Tensor | None:
    """How much is redrawn of each latent cell [1, 1, h, w], where finished neighbours have a share [h, w] of the pixels; None
    where they have none."""
    if not bool(share.any()):
        return None
    return 1 - F.avg_pool2d(share[None, None], latents.cell).clamp(0, 1)


def product(masks: list[Tensor]) -> Tensor | None:
    out = None
    for mask in masks:
        out = mask if out is None else out * mask
    return out


class TileSampler(Sampler, Protocol):
    """A sampler that knows its place on the picture."""

    def at(self, box: Box, *, canvas: tuple[int, int]) -> Sampler:
        """For what lies in a box of a canvas, both in latent cells, and is sampled as a canvas of its own: what else the
        sampler is told of the picture is then told of that place."""
        ...


@dataclass(frozen=True, eq=False)
class Tiles:
    """All that the tiles of one picture are made of."""

    host: Host
    settings: UpscaleSettings
    plan: TilePlan
    ground: Ground
    sampler: TileSampler
    guide: Guide | None
    redrawn: list[Tensor]
    progress: Progress | None
    seconds: dict[str, float]
    guided: list[dict[str, Any]] = field(default_factory=list)  # what the anchor did to tiles

    def make(self, tile: int, mosaic: Mosaic, *, sees: list[int], turn: int = 0) -> Tensor:
        """A tile [1, 3, h, w] in 0..1, with these neighbours in sight, which are in the mosaic."""
        host, settings, box = self.host, self.settings, self.plan.box(tile)
        host.check_interrupt()
        with timed(self.seconds, "enlarge"):
            plain = self.ground.part(box)
        shown, share = mosaic.over(plain, box, sees)
        with timed(self.seconds, "encode"):
            latents = finite(host.encode(shown), "encode")
            lost = None
            if settings.vae_detail > 0:
                lost = settings.vae_detail * (shown - finite(host.decode(latents), "decode").to(shown))
        masks = [part_of_mask(mask, box, size=self.ground.size, latents=host.latents) for mask in self.redrawn]
        kept = context_mask(share, latents=host.latents)
        cells, canvas = self.plan.latent.box(tile), (self.plan.latent.height, self.plan.latent.width)
        estimates = None
        if settings.anchor > 0 and settings.denoise > 0:
            with timed(self.seconds, "guidance"):
                estimates = self._anchored(box)
        with timed(self.seconds, "sample"):
            drawn = self.sampler.at(cells, canvas=canvas)(
                latents,
                plan=self.plan.alone(tile),
                guide=None if self.guide is None else PartGuide(self.guide, cells, canvas),
                estimates=estimates,
                denoise_mask=product(masks if kept is None else [*masks, kept]),
                noise=placed_noise(cells, channels=latents.shape[1], seed=settings.seed, turn=turn)[None],
                progress=self.progress,
            )
            finite(drawn, "sample")
        if estimates is not None:
            self.guided.append(estimates.report())
        with timed(self.seconds, "decode"):
            result = finite(host.decode(drawn), "decode").float().cpu()
            if lost is not None:
                result = (result + lost.to(result)).clamp_(0, 1)
            result = self._matched(result, plain, tile)
            return self.ground.back_projected(result, box, fidelity=settings.fidelity)

    def _anchored(self, box: Box) -> GuidedEstimates:
        host, footing = self.host, self.ground.footing(box)
        seen = footing.seen

        def read(pixels: Tensor) -> Tensor:
            padded = F.pad(pixels, (0, box.right - seen.right, 0, box.bottom - seen.bottom), mode="replicate")
            return finite(host.read(padded), "encode")

        return guided_estimates(
            footing.pixels.to(host.device),
            self.settings.on_estimates,
            canvas=TileCanvas(host.show, read, (seen.height, seen.width), footing),
            check=host.check_interrupt,
        )

    def _matched(self, result: Tensor, plain: Tensor, tile: int) -> Tensor:
        """A tile in the colours of the enlarged picture, by what of it lies on the picture."""
        way, box = self.settings.color_match, self.plan.box(tile)
        if way == "off":
            return result
        alone = self.plan.alone(tile)
        seen = self.ground.inside(box)
        result, plain = (cut(each, Box(0, 0, seen.height, seen.width)) for each in (result, plain.to(result)))
        result = match_color(result, plain, way="adain" if way == "adain_tiles" else way, plan=alone)
        return F.pad(result, (0, box.right - seen.right, 0, box.bottom - seen.bottom), mode="replicate")
