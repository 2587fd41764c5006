"""DINO features and encoded captions of a whole data set, made once and kept beside the pictures or in new tars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ...files.progress import Progress, counted
from ...files.writing import abandoned_parts, hold, make_folder, remove_abandoned, replacing, same_file
from .sample import Skipped
from .sources import Entry, cut_tar, entries_of, find_paths, require_webdataset

HOUR = 3600  # seconds


class Recipe(Protocol):
    """What is made of every sample, and how. name: for reports. files: the endings of its files, as they are written:
    without the last one they do not count. replaced: endings of files of another form, which give way to them."""

    name: str
    files: tuple[str, ...]
    replaced: tuple[str, ...]

    def make(self, entry: Entry) -> dict[str, bytes] | None:
        """The files of a sample to write by ending; None: they are there. Raises ``Unusable``."""
        ...


@dataclass
class FeatureReport:
    """Samples whose files were computed, whose files were there already, and that have none, by reason."""

    name: str
    computed: int = 0
    kept: int = 0
    skipped: Skipped = field(default_factory=Skipped)


Steps = Sequence[tuple[Recipe, FeatureReport]]


def precompute(
    path: str | Path | Sequence[str | Path],
    recipes: Sequence[Recipe],
    *,
    output: Path | None = None,
    progress: Progress | None = None,
) -> list[FeatureReport]:
    """What the recipes make of every sample of a folder, beside it, or of tars, in new tars of the same names in folder
    ``output``; a report for each recipe.

    What is there already and fits is kept, so that an interrupted run goes on, also one that was killed within a tar;
    every file is written whole or not at all. Samples that cannot be used are counted. Raises ValueError.
    """
    paths = find_paths(path)
    tars = [place for place in paths if place.is_file()]
    if tars and output is None:
        raise ValueError(f"features of {tars[0].name} go into a new tar: give a folder for it with --output")
    if output is not None and len(tars) < len(paths):
        raise ValueError("features of a folder go beside its pictures: leave --output out")
    if output is not None:
        _check_targets(tars, output)
    new = [] if output is None else [output / tar.name for tar in tars if not (output / tar.name).exists()]
    reports = [FeatureReport(recipe.name) for recipe in recipes]
    steps = list(zip(recipes, reports, strict=True))
    folders = {place: entries_of(place) for place in paths if place.is_dir()}
    for place, entries in folders.items():
        _check_stems(place, entries)
    for place in paths:
        entries = counted(folders[place] if place in folders else entries_of(place), place.name, progress)
        if output is None:
            _beside(place, entries, steps)
        else:
            make_folder(output)
            _new_tar(place, output / place.name, entries, steps)
    if not any(report.computed + report.kept for report in reports):
        for target in new:
            target.unlink(missing_ok=True)
        reasons = "; ".join(f"{report.name}: {report.skipped}" for report in reports if report.skipped) or "it is empty"
        raise ValueError(f"no picture in {', '.join(map(str, paths))} can be used ({reasons}): check the data")
    return reports


def _check_targets(tars: Sequence[Path], output: Path) -> None:
    """Raise ValueError where a new tar would replace one that is read, another new one, or one that is not an earlier run's."""
    for number, tar in enumerate(tars):
        target = output / tar.name
        if any(same_file(other, target) for other in tars):
            raise ValueError(
                f"the new {target.name} would replace the tar that is read: give another folder with --output"
            )
        if any(tar.name == other.name for other in tars[:number]):
            raise ValueError(f"several tars would be written to {target}: give tars with different names")
        if target.is_file():
            before = {entry.name for entry in entries_of(target)}
            if before and before.isdisjoint(entry.name for entry in entries_of(tar)):
                raise ValueError(
                    f"{target} has no sample of {tar}, but others ({min(before)}), so it is no earlier run's: "
                    "give another folder with --output"
                )


def _check_stems(folder: Path, entries: Iterable[Entry]) -> None:
    """Raise ValueError where two pictures would have the same files beside them."""
    names: dict[Path | None, str] = {}
    for entry in entries:
        if entry.stem in names:
            raise ValueError(
                f"{names[entry.stem]} and {entry.name} in {folder} would share feature files: rename one of them"
            )
        names[entry.stem] = entry.name


def _beside(folder: Path, entries: Iterable[Entry], steps: Steps) -> None:
    remove_abandoned(folder, seconds=HOUR)  # here nothing is held, files are written in no time
    for entry in entries:
        assert entry.stem is not None
        stem = entry.stem
        for recipe, report in steps:
            files = _made(entry, recipe, report)
            if files:  # from here on an old last file would vouch for new ones
                for ending in (recipe.files[-1], *recipe.replaced):
                    stem.with_name(f"{stem.name}.{ending}").unlink(missing_ok=True)
            for ending, content in files.items():
                with replacing(stem.with_name(f"{stem.name}.{ending}")) as part:
                    part.write_bytes(content)


def _new_tar(tar: Path, target: Path, entries: Iterable[Entry], steps: Steps) -> None:
    require_webdataset()
    from webdataset.writer import TarWriter

    left = abandoned_parts(target)
    for shorter in left[:-1]:
        shorter.unlink(missing_ok=True)
    done = {entry.name: entry for entry in entries_of(target)} if target.is_file() else {}
    for longest in left[-1:]:
        done |= {entry.name: entry for entry in cut_tar(longest, stem=target.stem)}
    with replacing(target) as part, part.open("wb") as file:
        hold(file)
        with TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as out:
            for entry in entries:
                for recipe, _ in steps:
                    entry = _with_known(entry, done.get(entry.name), recipe)
                contents = {ending: member.read() for ending, member in entry.members.items()}
                for recipe, report in steps:
                    contents |= _made(entry, recipe, report)
                    if all(name in contents for name in recipe.files):
                        contents = {name: content for name, content in contents.items() if name not in recipe.replaced}
                out.write({"__key__": entry.name.partition("/")[2], **contents})
    for longest in left[-1:]:
        longest.unlink(missing_ok=True)


def _with_known(entry: Entry, before: Entry | None, recipe: Recipe) -> Entry:
    """The sample with what an earlier run made of it; of files that are not whole only those that the tar lacks."""
    known = {} if before is None else {name: before.members[name] for name in recipe.files if name in before.members}
    whole = len(known) == len(recipe.files)
    return replace(entry, members={**entry.members, **known} if whole else {**known, **entry.members})


def _made(entry: Entry, recipe: Recipe, report: FeatureReport) -> dict[str, bytes]:
    """The files to write for a sample: none where they are there or cannot be made, which the report counts."""
    with report.skipped.counting():
        entry.picture()
        files = recipe.make(entry)
        if files is not None:
            report.computed += 1
            return files
        report.kept += 1
    return {}
