"""What is required of the guidance, each with the number that was found: the end of ``table.py``, and
`python -m benchmarks.guidance.checks FILE.json` of a file that it wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from .judges import DINO, HIGH, LOW, PHOTO
from .rows import ANCHOR, ANCHOR_DINO, ANCHOR_PHOTOS, HALF_ANCHOR, KNOWING, OFF, OTHER_PICTURE, STRENGTH_0, Row
from .scenes import FLAT, TEXTURED
from .sweep import Record

PLACES = ("before", "after")  # back-projection at the end


@dataclass(frozen=True)
class Check:
    """reached: None where the rows that it needs were not run."""

    required: str
    reached: bool | None
    found: str

    def __str__(self) -> str:
        word = {True: "reached", False: "NOT reached", None: "not measured"}[self.reached]
        return f"- {word}: {self.required}: {self.found}"


def checks(found: Mapping[str, Sequence[Record]]) -> list[Check]:
    """found: the records of "photographs" and "scenes" that ``table.py`` wrote."""
    photos, scenes = found["photographs"], found["scenes"]
    guided = ((ANCHOR_DINO, PHOTO), (ANCHOR_PHOTOS, DINO))  # by whom the row is judged, who did not guide it
    pairs = ((ANCHOR, OFF, PHOTO), *((row, HALF_ANCHOR, judge) for row, judge in guided))
    return [
        *(
            beats(photos, *pair, denoise=denoise, place=place)
            for pair in pairs
            for denoise in (0.5, 0.7)
            for place in PLACES
        ),
        *(other_is_worse(photos, denoise) for denoise in (0.5, 0.7)),
        *(
            check(photos, row, base, denoise)
            for check in (high_energy, low_psnr)
            for row, base, _ in pairs
            for denoise in (0.5, 0.7)
        ),
        zero_is_off(photos),
        *(steps_alike(photos, row) for row in (ANCHOR, ANCHOR_DINO)),
        *(
            nothing_invented(scenes, *rows)
            for rows in ((ANCHOR, OFF), (ANCHOR_DINO, HALF_ANCHOR), (KNOWING, HALF_ANCHOR))
        ),
        *(
            texture_doubled(scenes, *rows, place)
            for rows in ((ANCHOR, OFF), (KNOWING, HALF_ANCHOR))
            for place in PLACES
        ),
    ]


def beats(photos: Sequence[Record], row: Row, base: Row, judge: str, *, denoise: float, place: str) -> Check:
    name = f"{row.name} beats {base.name} on 80 % of pictures (judge {judge}, denoise {denoise:g}, {place} back-projection)"
    one, other = (values(photos, each, denoise=denoise, judge=judge, place=place) for each in (row, base))
    pairs = [(one[key], other[key]) for key in one if key in other]
    if not pairs:
        return Check(name, None, f"needs {row.name} and {base.name}")
    share = mean(first < second for first, second in pairs)
    changes = [first / second - 1 for first, second in pairs]
    return Check(name, share >= 0.8, f"{share:.0%} of {len(pairs)}, mean change {mean(changes):+.1%}")


def other_is_worse(photos: Sequence[Record], denoise: float) -> Check:
    name = f"another picture's features do worse than off ({PHOTO}, denoise {denoise:g})"
    return _means(photos, (OTHER_PICTURE, OFF), name, lambda other, off: other > off, denoise=denoise, judge=PHOTO)


def high_energy(photos: Sequence[Record], row: Row, base: Row, denoise: float) -> Check:
    name = (
        f"high-frequency energy comes nearer to the truth's, not beyond ({row.name}, {base.name}, denoise {denoise:g})"
    )

    def nearer(one: float, other: float) -> bool:
        return abs(1 - one) <= abs(1 - other) and one <= 1

    return _means(photos, (row, base), name, nearer, denoise=denoise, judge=HIGH)


def low_psnr(photos: Sequence[Record], row: Row, base: Row, denoise: float) -> Check:
    name = f"low-resolution PSNR is not worse ({row.name}, {base.name}, denoise {denoise:g})"
    return _means(photos, (row, base), name, lambda one, other: one >= other, denoise=denoise, judge=LOW)


def zero_is_off(photos: Sequence[Record]) -> Check:
    name = "strength 0 is bit-equal to off"
    zero, off = (
        {_key(each): each["result"] for each in photos if each["row"] == row.name} for row in (STRENGTH_0, OFF)
    )
    shared = zero.keys() & off.keys()
    if not shared:
        return Check(name, None, f"needs {STRENGTH_0.name} and {OFF.name}")
    same = sum(zero[key] == off[key] for key in shared)
    return Check(name, same == len(shared), f"{same} of {len(shared)} pictures")


def steps_alike(photos: Sequence[Record], row: Row) -> Check:
    """The gain in PSNR over off, whose least is at least 80 % of its largest."""
    name = f"4, 8 and 24 steps gain within 20 % of one another ({row.name} over off, PSNR, denoise 0.5)"
    gains = {}
    for steps in (4, 8, 24):
        wanted = {"sweep": "steps", "steps": steps, "judge": "PSNR", "place": "before"}
        one, off = (values(photos, each, **wanted) for each in (row, OFF))
        if not one.keys() & off.keys():
            return Check(name, None, f"needs {row.name} and {OFF.name} in 4, 8 and 24 steps")
        gains[steps] = mean(one[key] - off[key] for key in one.keys() & off.keys())
    said = ", ".join(f"{steps}: {gain:+.2f} dB" for steps, gain in gains.items())
    return Check(name, min(gains.values()) >= 0.8 * max(gains.values()), said)


def nothing_invented(scenes: Sequence[Record], row: Row, base: Row) -> Check:
    """Sharpness is 0 as flat as the truth, 1 as textured as a textured scene; a twentieth is allowed."""
    name = f"flat scenes get no invented texture ({row.name} over {base.name}, denoise 0.9, sharpness)"
    wanted = {"denoise": 0.9, "kind": FLAT, "judge": "sharpness", "place": "before"}
    return _means(scenes, (row, base), name, lambda one, other: one <= other + 0.05, **wanted)


def texture_doubled(scenes: Sequence[Record], row: Row, base: Row, place: str) -> Check:
    rows = f"{row.name} over {base.name}, {place} back-projection"
    name = f"sources 8x smaller, denoise 0.9: right texture at least doubled ({rows})"
    wanted = {"denoise": 0.9, "kind": TEXTURED, "judge": "accuracy", "place": place}
    return _means(scenes, (row, base), name, lambda one, other: one >= 2 * other, **wanted)


def values(
    records: Iterable[Record], row: Row, *, judge: str, place: str, **wanted: Any
) -> dict[tuple[Any, ...], float]:
    """What a judge said of a row, by picture and seed. wanted: of the record."""
    wanted = {"sweep": "denoise", **wanted, "row": row.name}
    chosen = [each for each in records if all(each[name] == value for name, value in wanted.items())]
    return {_key(each): each[place][judge] for each in chosen if each[place].get(judge) is not None}


def _means(
    records: Sequence[Record],
    rows: tuple[Row, Row],
    name: str,
    holds: Callable[[float, float], bool],
    *,
    place: str = "before",
    **wanted: Any,
) -> Check:
    """Of two rows over the pictures that both have."""
    first, second = (values(records, row, place=place, **wanted) for row in rows)
    shared = first.keys() & second.keys()
    if not shared:
        return Check(name, None, f"needs {' and '.join(row.name for row in rows)}")
    one, other = (mean(each[key] for key in shared) for each in (first, second))
    return Check(name, holds(one, other), f"{one:.3f}, {other:.3f} (means of {len(shared)})")


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("denoise", "steps", "picture", "seed"))


def main() -> None:
    print("\n".join(map(str, checks(json.loads(Path(sys.argv[1]).read_text())))))


if __name__ == "__main__":
    main()
