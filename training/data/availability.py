"""What training would find in a data set, without any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path

from ...files.containers import opened
from ...files.progress import Progress, counted
from .features import FeatureReport
from .sample import Unusable, unusable
from .sources import Entry, find_entries
from .stored import stored_features, stored_text


@dataclass
class Availability:
    """Of a data set: its samples, those that have a thing by its name, and the others by reason. plain: samples whose
    features do not say what made them; compressed: those whose features a FlatDINO compressed."""

    samples: int
    reports: list[FeatureReport]
    plain: int = 0
    compressed: int = 0


def availability(path: str | Path, *, progress: Progress | None = None) -> Availability:
    """Count what the samples of a folder or of tars bring: pictures, DINO features, captions, text. Raises ValueError."""
    entries = find_entries(path)
    found = Availability(len(entries), [FeatureReport(name) for name in KINDS])
    for entry in counted(entries, str(path), progress):
        for report in found.reports:
            with report.skipped.counting():
                KINDS[report.name](entry, found)
                report.kept += 1
    return found


def _picture(entry: Entry, found: Availability) -> None:
    with unusable("unreadable picture"), opened(BytesIO(entry.picture().read())):
        pass


def _features(entry: Entry, found: Availability, *, family: str) -> None:
    info = stored_features(entry, family, plain=True)[2]
    found.plain += info is None
    found.compressed += info is not None and bool(info.flat)


def _caption(entry: Entry, found: Availability) -> None:
    if "txt" not in entry.members:
        raise Unusable("without a caption")


def _text(entry: Entry, found: Availability) -> None:
    if any(array is None for array in stored_text(entry)[:2]):
        raise Unusable("without t5.npy or clip.npy, or flux2.npy")


KINDS: dict[str, Callable[[Entry, Availability], None]] = {
    "picture": _picture,
    **{family: partial(_features, family=family) for family in ("dinov2", "dinov3")},
    "caption": _caption,
    "text": _text,
}
