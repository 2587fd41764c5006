"""``dinotile flatdino evaluate``: how much of held-out patches is restored, beside codes of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...dino.compress.checkpoint import LoadedFlat
from ...files.progress import Progress, counted
from .baselines import Baseline, baselines
from .measure import Tally
from .patches import TOGETHER, Patches

BYTE = 8  # bits
MOST_NUMBERS = 2**28  # of patches that baselines are fitted to: 1 GiB


@dataclass(frozen=True)
class Score:
    """A row of the table. floats: 0 for a code of whole numbers. cosine, huber, explained: see ``Tally``. codes: share of all
    codes that occurred, of quantised tokens."""

    name: str
    floats: int
    bits: float
    cosine: float
    huber: float
    explained: float
    codes: float | None = None

    def values(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def evaluate(
    flat: LoadedFlat,
    data: Patches,
    *,
    fit: Patches | None = None,
    device: torch.device,
    progress: Progress | None = None,
) -> list[Score]:
    """The FlatDINO, of a nested one also with 1, 2, 4, ... tokens, and with ``fit`` the ``baselines`` fitted to those pictures.

    ValueError for features that it is not made for, and where no picture can be used.
    """
    data.check(flat.config, "the features")
    model, config = flat.module.to(device), flat.config
    kept = (
        [2**power for power in range(config.tokens.bit_length()) if 2**power < config.tokens] if config.nested else []
    )
    ways: list[tuple[str, int, float, Callable[[Tensor], Tensor]]] = []
    for keep in [*kept, None]:
        tokens = keep or config.tokens
        share = tokens / config.tokens
        floats = 0 if config.levels else tokens * config.features
        name = f"FlatDINO, {tokens} of {config.tokens} tokens" if kept else "FlatDINO"
        ways.append((name, floats, share * config.bits, lambda x, keep=keep: _through(model, x, keep, device)))
    if fit is not None:
        fit.check(config, "the features to fit")
        ways += [(b.name, b.floats, b.bits, b.restore) for b in fitted(flat, fit, progress=progress)]
    tallies = [Tally() for _ in ways]
    for part in _parts(data, progress):
        true = part[:, 0]
        for (_, _, _, restore), tally in zip(ways, tallies, strict=True):
            tally.add(restore(true), true)
        if config.levels:
            tallies[len(kept)].note_codes(model.codes(model.encode(true.to(device))))
    return [
        Score(name, floats, bits, **tally.numbers(config if index == len(kept) else None))
        for index, ((name, floats, bits, _), tally) in enumerate(zip(ways, tallies, strict=True))
    ]


def fitted(flat: LoadedFlat, fit: Patches, *, progress: Progress | None = None) -> list[Baseline]:
    """The baselines of this FlatDINO's size, fitted to as many of the pictures as a GiB holds."""
    config, parts, room = flat.config, [], MOST_NUMBERS
    for part in _parts(fit, progress, stage="fit"):
        parts.append(part[:, 0].half())
        room -= part[:, 0].numel()
        if room <= 0:
            break
    patches = torch.cat(parts) if parts else torch.zeros(0)
    if len(patches) < 2:
        raise ValueError(
            f"{len(patches)} pictures to fit the baselines to are too few, at least 2 are needed: give more"
        )
    return baselines(config, patches)


def lines(scores: Sequence[Score]) -> list[str]:
    """The table for people to read; bytes are those of a picture."""
    wide = max(len(score.name) for score in scores)
    head = f"{'restored from':<{wide}}  {'floats':>6}  {'bytes':>8}  cosine   huber  explained"
    return [head, *(_line(score, wide) for score in scores)]


def _line(score: Score, wide: int) -> str:
    measured = f"{score.cosine:6.4f}  {score.huber:6.4f}  {score.explained:9.4f}"
    codes = "" if score.codes is None else f"  {score.codes:.1%} of codes in use"
    return f"{score.name:<{wide}}  {score.floats or '-':>6}  {score.bits / BYTE:>8.1f}  {measured}{codes}"


def _through(model: Any, x: Tensor, keep: int | None, device: torch.device) -> Tensor:
    return model.decode(model.encode(x.to(device)), keep=keep).cpu()


def _parts(data: Patches, progress: Progress | None, *, stage: str = "restore") -> Iterator[Tensor]:
    for start in counted(range(0, len(data), TOGETHER), stage, progress):
        for _, patches in data.whole(range(start, min(start + TOGETHER, len(data)))):
            yield patches
