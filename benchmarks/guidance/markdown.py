"""Records as Markdown: a table for each kind of picture, noise level and number of steps, means over pictures and seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import mean

from .checks import PLACES
from .sweep import Record


def markdown(records: Sequence[Record]) -> str:
    """Each measure before and after back-projection at the end; "-" where one who guided would have judged."""
    return "\n".join(line for _, group in groupby(records, _case) for line in _table(list(group)))


def _case(record: Record) -> tuple[str, float, int]:
    return record["kind"], record["denoise"], record["steps"]


def _table(records: Sequence[Record]) -> Iterator[str]:
    kind, denoise, steps = _case(records[0])
    pictures, seeds = (len({record[name] for record in records}) for name in ("picture", "seed"))
    names = list(dict.fromkeys(name for record in records for name in record["before"]))
    shown = f", denoise {denoise:g}, {steps} steps" if steps else ""
    yield f"### {kind}{shown} ({pictures} pictures, {seeds} seeds)\n"
    columns = [column for name in names for column in (name, f"{name}, after")]
    yield f"| | {' | '.join(columns)} | s |"
    yield "|---" * (len(columns) + 2) + "|"
    for row in dict.fromkeys(record["row"] for record in records):
        own = [record for record in records if record["row"] == row]
        cells = [_mean(own, name, place) for name in names for place in PLACES]
        yield f"| {row} | {' | '.join(cells)} | {mean(record['seconds'] for record in own):.1f} |"
    yield ""


def _mean(records: Sequence[Record], name: str, place: str) -> str:
    found = [record[place][name] for record in records if name in record[place]]
    return f"{mean(found):.4g}" if found else "-"
