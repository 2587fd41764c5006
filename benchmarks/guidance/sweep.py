"""Every subject in every row, noise level and seed, before and after back-projection at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from dinotile.files.fingerprints import fingerprint
from dinotile.tiling.color import back_project
from dinotile.upscaling.settings import UpscaleSettings

from .draw import Models, draw
from .rows import Row

Record = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Subject:
    """What is upscaled. source: [1, 3, h, w]. judge: of a result [1, 3, H, W], by all but the
    judges of those names."""

    name: str
    kind: str
    source: Tensor
    judge: Callable[[Tensor, Collection[str]], dict[str, float]]


@dataclass(frozen=True)
class Case:
    """sweep: what is varied."""

    sweep: str
    denoise: float
    steps: int


def sweep(
    subjects: Sequence[Subject],
    rows: Sequence[Row],
    case: Case,
    *,
    seeds: int,
    settings: UpscaleSettings,
    models: Models,
) -> Iterator[Record]:
    """A record of each row of each subject and seed; what two rows have in common is drawn once."""
    check_others(subjects, rows)
    for index, subject in enumerate(subjects):
        for seed in range(seeds):
            chosen = replace(settings, denoise=case.denoise, steps=case.steps, seed=1000 * index + seed)
            known: dict[Hashable, tuple[Tensor, float]] = {}
            for row in rows:
                if row.drawn not in known:
                    start, other = time.perf_counter(), subjects[index - 1].source
                    drawn, _ = draw(models, row, subject.source, chosen, other=other)
                    known[row.drawn] = drawn, time.perf_counter() - start
                drawn, seconds = known[row.drawn]
                yield record(subject, row, case, seed=seed, drawn=drawn, seconds=seconds)


def check_others(subjects: Sequence[Subject], rows: Sequence[Row]) -> None:
    """ValueError where there is no other picture for a row that needs one."""
    needing = [row.name for row in rows if row.elsewhere]
    if len(subjects) < 2 and needing:
        raise ValueError(f'"{needing[0]}" needs two pictures or more: ask for more, or leave that row out with --rows')


def record(subject: Subject, row: Row, case: Case, *, seed: int, drawn: Tensor, seconds: float) -> Record:
    """result: the first digits of the SHA-256 of the row's pixels. before, after: what is judged of them, and of them after
    back-projection at the end."""
    before = back_project(drawn, subject.source, fidelity=row.fidelity)
    after = back_project(before, subject.source, fidelity=1.0)
    return {
        "kind": subject.kind,
        **asdict(case),
        "picture": subject.name,
        "seed": seed,
        "row": row.name,
        "seconds": round(seconds, 2),
        "result": fingerprint(before.numpy().tobytes())[:12],
        "before": subject.judge(before, row.biased),
        "after": subject.judge(after, row.biased),
    }
