"""One table of two runs on different pictures: `python -m benchmarks.semantics.pooled FIRST.json SECOND.json`.

Means and intervals are those of all pictures together, of the rows and differences that both files have: mean and spread of
each file give them exactly.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from ..figures import publish

Pair = list[float]  # mean, and half the width of its 95 % interval


def pooled(first: Pair, second: Pair, counts: tuple[int, int]) -> Pair:
    """Of two groups of independent values their mean and half interval together."""
    total = sum(counts)
    spreads = [
        (half / student.ppf(0.975, count - 1)) ** 2 * count
        for (_, half), count in zip((first, second), counts, strict=True)
    ]
    mean = (first[0] * counts[0] + second[0] * counts[1]) / total
    squares = sum((count - 1) * spread for count, spread in zip(counts, spreads, strict=True))
    squares += sum(count * (one[0] - mean) ** 2 for one, count in zip((first, second), counts, strict=True))
    half = student.ppf(0.975, total - 1) * (squares / (total - 1) / total) ** 0.5
    return [round(mean, 5), round(float(half), 5)]


def together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The table of both; SystemExit where they are not of the same models and settings, or of the same pictures."""
    one, other = first["about"], second["about"]
    for name in ("seeds", "settings", "models"):
        if not alike(one[name], other[name]):
            raise SystemExit(f"the files are of other {name}: give two runs that differ in --first alone")
    counts = (one["pictures"], other["pictures"])
    if max(one["first"], other["first"]) < min(one["first"] + counts[0], other["first"] + counts[1]):
        raise SystemExit("the files share pictures: give two runs whose --first is further apart")
    rows = {
        name: {
            key: pooled(found[key], second["rows"][name][key], counts)
            for key, value in found.items()
            if isinstance(value, list) and len(value) == 2 and None not in (*value, *second["rows"][name][key])
        }
        for name, found in first["rows"].items()
        if name in second["rows"]
    }
    apart = {
        name: pooled(found, second["differences"][name], counts)
        for name, found in first.get("differences", {}).items()
        if name in second.get("differences", {})
    }
    return {"about": [one, other], "rows": rows, "differences": apart}


def alike(one: Any, other: Any) -> bool:
    """Whether they are equal, by the names that both have: later versions know more settings."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(one[name] == other[name] for name in one.keys() & other.keys())
    return one == other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    publish(together(*(json.loads(path.read_text()) for path in (options.first, options.second))), options.output)


if __name__ == "__main__":
    main()
