"""The rows of a training step and their loss: flow matching on the velocity (arXiv 2403.03206, section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...dino.feature_map import FeatureMap
from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.families import ModelFamily
from ...flux_patch.rows import DinoRow, Fractions
from ...flux_patch.schedule import Strength
from ...flux_patch.tokens import DinoTokens
from ...hosts.host import Host, Text
from ..core.optimiser import autocast
from ..core.random import generator_for, item_at
from .config import TrainConfig
from .dropout import Kept, draw_kept, draw_sigma, draw_start
from .encode import EncodedPicture, PictureEncoder

TRIES = 64  # pictures that may be skipped for one row before the run gives up
ON = Strength(1.0)


@dataclass(frozen=True, eq=False)
class TrainRow:
    """One window of one picture at one noise level."""

    picture: str
    kept: Kept
    clean: Tensor  # [C, h, w], the window's latents
    noise: Tensor  # [C, h, w], with what the source lacks where the row begins there
    sigma: float
    box: Fractions
    features: FeatureMap | None  # None: the learned null takes the place of DINO
    text: Text  # B = 1


def draw_rows(
    pictures: PictureEncoder,
    slots: Sequence[int],
    *,
    step: int,
    first: int,
    count: int,
    drawn: dict[int, EncodedPicture] | None = None,
) -> dict[int, TrainRow]:
    """The rows at ``slots`` of the global batch of a step. first: rows before this step; count: pictures to draw from.

    drawn: of earlier slots, by their number in the run; afterwards those of these slots, whose next windows may follow.
    """
    config = pictures.config
    seed, windows = config.optimisation.seed, config.data.windows
    drawn = {} if drawn is None else drawn
    rows = {}
    for slot in slots:
        generator = generator_for(seed, "row", step, slot)
        kept = draw_kept(config.conditions, generator=generator)
        number = (first + slot) // windows
        if number not in drawn:
            blind = windows == 1 and kept in ("none", "text") and not config.conditions.from_source
            drawn[number] = _draw_picture(pictures, number, blind=blind, count=count)
        start = draw_start(config.conditions, generator=generator_for(seed, "start", step, slot))
        levels = config.optimisation.sigma if start is None else (0.0, start)
        rows[slot] = make_row(
            drawn[number],
            family=pictures.host.family,
            kept=kept,
            sigma=draw_sigma(levels, sampling=config.optimisation.sigma_sampling, generator=generator),
            start=start,
            tile=config.data.tile,
            feature_noise=config.conditions.feature_noise,
            generator=generator,
        )
    for number in drawn.keys() - {(first + slot) // windows for slot in slots}:
        del drawn[number]
    return rows


def _draw_picture(pictures: PictureEncoder, number: int, *, blind: bool, count: int) -> EncodedPicture:
    """The ``number``-th picture of the run, counted from 0; ``blind``: without features."""
    config = pictures.config
    seed = config.optimisation.seed
    generator = generator_for(seed, "picture", number)
    weak = bool(torch.rand((), generator=generator) < config.conditions.weak)
    index = item_at(number, count=count, seed=seed)
    for _ in range(TRIES):
        picture = pictures.get(index, source="none" if blind else "weak" if weak else "usual", generator=generator)
        if picture is not None:
            return picture
        index = int(torch.randint(count, (), generator=generator))
    raise ValueError(f"{TRIES} pictures in a row cannot be used ({pictures.data.skipped}): mend the data")


def make_row(
    picture: EncodedPicture,
    *,
    family: ModelFamily,
    kept: Kept,
    sigma: float,
    tile: int,
    start: float | None = None,
    feature_noise: float = 0.0,
    generator: torch.Generator,
) -> TrainRow:
    """A random window of ``tile`` px (0: the whole picture) with random noise, and the conditions that it keeps.

    start: the row is on the straight way from the noisy source at this level, ``(1 - start) * source + start * noise``, to
    the picture. That is the way of a picture with other noise, which holds what the source lacks.
    """
    sides = picture.latents.shape[-2:]
    cells = [min(tile // family.cell, side) if tile else side for side in sides]
    steps = [(side - size) // family.patch for side, size in zip(sides, cells, strict=True)]
    top, left = (int(torch.randint(n + 1, (), generator=generator)) * family.patch for n in steps)
    window = (slice(None), slice(top, top + cells[0]), slice(left, left + cells[1]))
    clean = picture.latents[window]
    noise = torch.randn(clean.shape, generator=generator)
    if start is not None:
        assert picture.source is not None and sigma <= start
        noise = noise + (1 / start - 1) * (picture.source[window] - clean)
    seen = picture.keeping(kept)
    features = seen.features
    if features is not None and feature_noise:
        features = _noisy(features, feature_noise, generator)
    return TrainRow(
        picture=picture.name,
        kept=kept,
        clean=clean,
        noise=noise,
        sigma=sigma,
        box=(top / sides[0], left / sides[1], cells[0] / sides[0], cells[1] / sides[1]),
        features=features,
        text=seen.text,
    )


def training_losses(
    host: Host, rows: Sequence[TrainRow], config: TrainConfig, *, watched: AbstractContextManager[None] | None = None
) -> tuple[Tensor, Tensor]:
    """``velocity_losses`` in the configuration's precision and with its guidance; ``watched`` is around what has a gradient."""
    guidance = config.conditions.dino_guidance
    # A context of its own: some versions of torch keep casts that were made without gradient.
    with autocast(config.optimisation, device=host.device):
        null = null_velocities(host, rows) if guidance > 1 else None
    with autocast(config.optimisation, device=host.device), watched or nullcontext():
        return velocity_losses(host, rows, guidance=guidance, null=null)


def velocity_losses(
    host: Host, rows: Sequence[TrainRow], *, guidance: float = 1.0, null: Mapping[int, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean squared error of each row's velocity, and the root mean square of what was predicted; both [B].

    The latents at noise level s are ``(1 - s) * clean + s * noise`` and their velocity is ``noise - clean``.

    guidance: the DINO guidance that the adapter learns to bring along. The target of the rows in ``null`` (what
    ``null_velocities`` gave) is moved by ``(1 - 1 / guidance) * (predicted - null)``, without gradient, as in arXiv 2502.12154;
    the velocity that meets it on average is ``null + guidance * (expected - null)``, with the expected velocity of the data.
    """
    if guidance != 1 and null is None:
        raise ValueError(f"guidance {guidance} needs null_velocities of the same rows")
    null = null or {}
    losses, sizes = [], []
    for i, (row, predicted) in enumerate(zip(rows, velocities(host, rows), strict=True)):
        target = (row.noise - row.clean).to(host.device)
        if i in null:
            target = target + (1 - 1 / guidance) * (predicted.detach() - null[i])
        losses.append((predicted - target).square().mean())
        sizes.append(predicted.detach().square().mean().sqrt())
    return torch.stack(losses), torch.stack(sizes)


@torch.no_grad()
def null_velocities(host: Host, rows: Sequence[TrainRow]) -> dict[int, Tensor]:
    """Velocity [C, h, w] of each row that has features, were they dropped, by its number in ``rows``."""
    numbers = [i for i, row in enumerate(rows) if row.features is not None]
    return dict(zip(numbers, velocities(host, [replace(rows[i], features=None) for i in numbers]), strict=True))


def velocities(host: Host, rows: Sequence[TrainRow]) -> list[Tensor]:
    """FLUX's velocity [C, h, w] of each row, float32, with the adapter's gradient.

    Rows of one window size and text length share a FLUX call, and each picture is projected once.
    """
    assert host.adapter is not None
    dino_rows = _dino_rows(host.adapter.module, rows, device=host.device)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((*row.clean.shape, row.text.context.shape[1]), []).append(i)
    by_number: dict[int, Tensor] = {}
    for chosen in groups.values():
        part = [rows[i] for i in chosen]
        clean, noise = (
            torch.stack([getattr(row, name) for row in part]).to(host.device) for name in ("clean", "noise")
        )
        context, pooled = (
            torch.cat([getattr(row.text, name) for row in part]).to(host.device) for name in ("context", "pooled")
        )
        sigmas = torch.tensor([row.sigma for row in part], device=host.device)
        share = sigmas[:, None, None, None]
        mixed = (1 - share) * clean + share * noise
        text = replace(part[0].text, context=context, pooled=pooled, mask=_masks([row.text for row in part]))
        velocity = host.velocity(mixed, sigmas, text=text, rows=[dino_rows[i] for i in chosen])
        by_number.update(zip(chosen, velocity, strict=True))
    return [by_number[i] for i in range(len(rows))]


def _masks(texts: Sequence[Text]) -> Tensor | None:
    """[B, n] of texts of one length, None where none has any."""
    if all(text.mask is None for text in texts):
        return None
    everything = torch.ones(1, texts[0].context.shape[1], dtype=torch.bool)
    return torch.cat([everything if text.mask is None else text.mask for text in texts])


def _dino_rows(adapter: DinoAdapter, rows: Sequence[TrainRow], *, device: torch.device) -> list[DinoRow]:
    """Each row's projected picture and box, or the learned null; pictures of one shape are projected together."""
    unique = {id(row.features): row.features for row in rows if row.features is not None}
    groups: dict[tuple[int, ...], list[FeatureMap]] = {}
    for features in unique.values():
        groups.setdefault(tuple(features.patches.shape), []).append(features)
    projected: dict[int, tuple[DinoTokens, int]] = {}
    for group in groups.values():
        patches = torch.cat([features.patches for features in group]).to(device)  # [B, h, w, D]
        cls = torch.cat([features.cls for features in group]).to(device)  # [B, D]
        tokens = adapter.project(group[0].with_patches(patches, cls))
        projected.update((id(features), (tokens, i)) for i, features in enumerate(group))
    return [
        DinoRow(None, 0, row.box, ON) if row.features is None else DinoRow(*projected[id(row.features)], row.box, ON)
        for row in rows
    ]


def _noisy(features: FeatureMap, amount: float, generator: torch.Generator) -> FeatureMap:
    patches, cls = (
        tensor.float().cpu() + amount * torch.randn(tensor.shape, generator=generator)
        for tensor in (features.patches, features.cls)
    )
    return features.with_patches(patches, cls)
