"""The rows of a training step and their loss: flow matching on the velocity (arXiv 2403.03206, section 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...dino.feature_map import FeatureMap
from ...flux_patch.adapter import DinoAdapter
from ...flux_patch.rows import DinoRow, Fractions
from ...flux_patch.schedule import Strength
from ...hosts.diffusers.host import Host
from .cases import Case, draw_case, draw_sigma, draw_start, generator_for, picture_at
from .prepare import Prepared, Preparer

CELL, TOKEN = 8, 16  # px per latent cell and per FLUX token
TRIES = 64  # pictures that may be skipped for one row before the run gives up
ON = Strength(1.0)


@dataclass(frozen=True, eq=False)
class TrainRow:
    """One window of one picture at one noise level."""

    picture: str
    case: Case
    clean: Tensor  # [16, h, w], the window's latents
    noise: Tensor  # [16, h, w], with what the source lacks where the row begins there
    sigma: float
    box: Fractions
    features: FeatureMap | None  # None: the learned null takes the place of DINO
    context: Tensor  # [n, C]
    pooled: Tensor  # [V]


def draw_rows(preparer: Preparer, slots: Sequence[int], *, step: int, first: int, count: int) -> dict[int, TrainRow]:
    """The rows at ``slots`` of the global batch of a step. first: rows before this step; count: pictures to draw from."""
    config = preparer.config
    seed, windows = config.optimisation.seed, config.data.windows
    pictures: dict[int, Prepared] = {}
    rows = {}
    for slot in slots:
        generator = generator_for(seed, "row", step, slot)
        case = draw_case(config.conditions, generator=generator)
        number = (first + slot) // windows
        if number not in pictures:
            blind = windows == 1 and case in ("none", "text") and not config.conditions.from_source
            pictures[number] = _draw_picture(preparer, number, blind=blind, count=count)
        start = draw_start(config.conditions, generator=generator_for(seed, "start", step, slot))
        levels = (
            config.optimisation if start is None else config.optimisation.model_copy(update={"sigma": (0.0, start)})
        )
        rows[slot] = make_row(
            pictures[number],
            case=case,
            sigma=draw_sigma(levels, generator=generator),
            start=start,
            tile=config.data.tile,
            feature_noise=config.conditions.feature_noise,
            generator=generator,
        )
    return rows


def _draw_picture(preparer: Preparer, number: int, *, blind: bool, count: int) -> Prepared:
    """The ``number``-th picture of the run, counted from 0; ``blind``: without features."""
    config = preparer.config
    seed = config.optimisation.seed
    generator = generator_for(seed, "picture", number)
    weak = bool(torch.rand((), generator=generator) < config.conditions.weak)
    index = picture_at(number, count=count, seed=seed)
    for _ in range(TRIES):
        picture = preparer.get(index, source="none" if blind else "weak" if weak else "usual", generator=generator)
        if picture is not None:
            return picture
        index = int(torch.randint(count, (), generator=generator))
    reasons = ", ".join(f"{times} {reason}" for reason, times in preparer.data.skipped.items())
    raise ValueError(f"{TRIES} pictures in a row cannot be used ({reasons}): mend the data")


def make_row(
    picture: Prepared,
    *,
    case: Case,
    sigma: float,
    tile: int,
    start: float | None = None,
    feature_noise: float = 0.0,
    generator: torch.Generator,
) -> TrainRow:
    """A random window of ``tile`` px (0: the whole picture) with random noise, and the conditions of its case.

    start: the row is on the straight way from the noisy source at this level, ``(1 - start) * source + start * noise``, to
    the picture. That is the way of a picture with other noise, which holds what the source lacks.
    """
    sides = picture.latents.shape[-2:]
    cells = [min(tile // CELL, side) if tile else side for side in sides]
    steps = [(side - size) * CELL // TOKEN for side, size in zip(sides, cells, strict=True)]
    top, left = (int(torch.randint(n + 1, (), generator=generator)) * TOKEN // CELL for n in steps)
    window = (slice(None), slice(top, top + cells[0]), slice(left, left + cells[1]))
    clean = picture.latents[window]
    noise = torch.randn(clean.shape, generator=generator)
    if start is not None:
        assert picture.source is not None and sigma <= start
        noise = noise + (1 / start - 1) * (picture.source[window] - clean)
    features = picture.features if case in ("dino", "both") else None
    if features is not None and feature_noise:
        features = _noisy(features, feature_noise, generator)
    texted = case in ("text", "both")
    return TrainRow(
        picture=picture.name,
        case=case,
        clean=clean,
        noise=noise,
        sigma=sigma,
        box=(top / sides[0], left / sides[1], cells[0] / sides[0], cells[1] / sides[1]),
        features=features,
        context=picture.context if texted else torch.zeros_like(picture.context),
        pooled=picture.pooled if texted else torch.zeros_like(picture.pooled),
    )


def velocity_losses(
    host: Host, rows: Sequence[TrainRow], *, guidance: float = 1.0, null: Mapping[int, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean squared error of each row's velocity, and the root mean square of what was predicted; both [B].

    The latents at noise level s are ``(1 - s) * clean + s * noise`` and their velocity is ``noise - clean``.

    guidance: the DINO guidance that the adapter learns to bring along. The target of the rows in ``null`` (what
    ``null_velocities`` gave) is moved by ``(1 - 1 / guidance) * (found - null)``, without gradient, as in arXiv 2502.12154;
    the velocity that meets it on average is ``null + guidance * (expected - null)``, with the expected velocity of the data.
    """
    if guidance != 1 and null is None:
        raise ValueError(f"guidance {guidance} needs null_velocities of the same rows")
    null = null or {}
    losses, sizes = [], []
    for i, (row, found) in enumerate(zip(rows, velocities(host, rows), strict=True)):
        target = (row.noise - row.clean).to(host.device)
        if i in null:
            target = target + (1 - 1 / guidance) * (found.detach() - null[i])
        losses.append((found - target).square().mean())
        sizes.append(found.detach().square().mean().sqrt())
    return torch.stack(losses), torch.stack(sizes)


@torch.no_grad()
def null_velocities(host: Host, rows: Sequence[TrainRow]) -> dict[int, Tensor]:
    """Velocity [16, h, w] of each row that has features, were they dropped, by its number in ``rows``."""
    numbers = [i for i, row in enumerate(rows) if row.features is not None]
    return dict(zip(numbers, velocities(host, [replace(rows[i], features=None) for i in numbers]), strict=True))


def velocities(host: Host, rows: Sequence[TrainRow]) -> list[Tensor]:
    """FLUX's velocity [16, h, w] of each row, float32, with the adapter's gradient.

    Rows of one window size and text length share a FLUX call, and each picture is projected once.
    """
    dino_rows = _dino_rows(host.adapter, rows, device=host.device)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((*row.clean.shape, len(row.context)), []).append(i)
    found: dict[int, Tensor] = {}
    for chosen in groups.values():
        part = [rows[i] for i in chosen]
        clean, noise, context, pooled = (
            torch.stack([getattr(row, name) for row in part]).to(host.device)
            for name in ("clean", "noise", "context", "pooled")
        )
        sigmas = torch.tensor([row.sigma for row in part], device=host.device)
        share = sigmas[:, None, None, None]
        mixed = (1 - share) * clean + share * noise
        part_rows = [dino_rows[i] for i in chosen]
        velocity = host.velocity(mixed, sigmas, context=context, pooled=pooled, rows=part_rows).float()
        found.update(zip(chosen, velocity, strict=True))
    return [found[i] for i in range(len(rows))]


def _dino_rows(adapter: DinoAdapter, rows: Sequence[TrainRow], *, device: torch.device) -> list[DinoRow]:
    """Each row's projected picture and box, or the learned null; pictures of one shape are projected together."""
    unique = {id(row.features): row.features for row in rows if row.features is not None}
    groups: dict[tuple[int, ...], list[FeatureMap]] = {}
    for features in unique.values():
        groups.setdefault(tuple(features.patches.shape), []).append(features)
    projected: dict[int, tuple[FeatureMap, int]] = {}
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
