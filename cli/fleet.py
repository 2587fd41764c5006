"""``dinotile run`` over many pictures and several servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.fingerprints import fingerprint
from ..files.writing import make_folder
from .manifest import DONE, FAILED, RUNNING, Manifest, check_manifest
from .outputs import check_free, check_inputs_stay
from .remote.pool import Event, Job, Pool
from .remote.results import check_output
from .remote.run import workflow_for
from .remote.servers import NO_VERSION, Made, Servers, check_alike, uses_this_pack
from .remote.workflow import prepared

if TYPE_CHECKING:
    from ..files.progress import Progress
    from .remote.client import ComfyClient


@dataclass
class Fleet:
    """jobs: each picture and where its result goes. servers: addresses. make: a client of one. folder: made where it is not
    there yet. owned: files that the job wrote, or may now. failed: why a picture has no result."""

    jobs: list[tuple[Path, Path]]
    workflow: Path
    servers: Sequence[str]
    make: Callable[[str], ComfyClient]
    folder: Path | None
    settings: Sequence[str] = ()
    overwrite: bool = False
    manifest: Manifest | None = None
    stamp: str = ""
    owned: set[Path] = field(default_factory=set)
    failed: dict[Path, str] = field(default_factory=dict)

    def note(self, job: Job, status: str, **facts: object) -> None:
        if self.manifest is not None:
            self.manifest.note(job.source, job.output, status, **facts)

    def claim(self, job: Job, places: Sequence[Path]) -> None:
        """Before files are written: ValueError where one would replace what is not the job's. Then all are its own."""
        check_free([place for place in places if place not in self.owned], overwrite=self.overwrite)
        self.owned |= {*places}
        if further := {place.name: 0 for place in places if place != job.output}:
            self.note(job, RUNNING, further=further)


def run_fleet(fleet: Fleet, manifest: Path | None, *, progress: Progress) -> Iterator[str]:
    """Run the workflow on each picture, on whichever server is free, and yield a line about each.

    Raises ValueError, before anything is sent, for bad input; and in the end, where no server is left.
    """
    graph = workflow_for(fleet.workflow, fleet.jobs[0][0], fleet.settings)
    outputs = [output for _, output in fleet.jobs]
    if fleet.folder is None:
        check_output(outputs[0])
    check_inputs_stay(outputs, [fleet.workflow, *(source for source, _ in fleet.jobs)])
    left = fleet.jobs
    if manifest is not None:
        check_manifest(manifest, [path for job in fleet.jobs for path in job], folder=fleet.folder)
        plain = prepared(graph, image="", settings=fleet.settings)
        fleet.stamp = fingerprint(json.dumps(plain, sort_keys=True).encode())
        fleet.manifest = Manifest.read(manifest)
        left = fleet.manifest.left(fleet.jobs, lambda source: fleet.stamp)
        fleet.owned = fleet.manifest.owned(outputs)
    check_free([output for output in outputs if output not in fleet.owned], overwrite=fleet.overwrite)
    shared = Servers(
        graph,
        fleet.settings,
        fleet.make,
        taken=set(outputs),
        inputs=[fleet.workflow, *(source for source, _ in fleet.jobs)],
        claim=fleet.claim,
        may_replace=lambda place: fleet.overwrite or place in fleet.owned,
    )
    if left:
        version = yield from _answering(fleet, shared)
        if fleet.manifest is not None:
            fleet.manifest.made_by = version or fleet.manifest.made_by
    if fleet.manifest is not None:
        yield fleet.manifest.told(fleet.jobs, left)
    if left:
        yield from _shared(fleet, shared, [Job(*job) for job in left], progress)


def _answering(fleet: Fleet, shared: Servers) -> Generator[str, None, str]:
    """Look which servers are there, and tell which are not; returns their version, empty where it is not known."""
    versions = {}
    for address, (name, why, version) in zip(fleet.servers, shared.answering(fleet.servers), strict=True):
        if why is not None:
            yield f"{name} is left out: {why}"
        else:
            versions[name], shared.addresses[name] = version, address
    if not versions:
        raise ValueError("no server answers: start one, or give its address with --server")
    if not uses_this_pack(shared.graph):
        return ""
    check_alike(versions)
    version = versions.popitem()[1]
    if version == NO_VERSION and versions:
        yield "the servers do not tell their versions of DINOTile: see to it that they are alike, as results are only then"
    return "" if version == NO_VERSION else version


def _shared(fleet: Fleet, shared: Servers, jobs: list[Job], progress: Progress) -> Iterator[str]:
    """Have the servers do the jobs, and tell and note what becomes of each."""
    if fleet.folder is not None:
        make_folder(fleet.folder)
    if fleet.manifest is not None:
        fleet.manifest.begin()
    pool = Pool(jobs, list(shared.addresses), shared.work)
    done, count = 0, len(jobs)
    progress("pictures", 0, count)
    try:
        with closing(pool.run(stop=shared.stop)) as events:
            for event in events:
                yield from _told(fleet, event)
                done += event.kind in ("done", "failed")
                progress("pictures", done, count)
    finally:
        if fleet.manifest is not None:
            fleet.manifest.close()
    if done < count:
        again = ", and give the same command again" if fleet.manifest is not None else ""
        raise ValueError(f"no server is left, and {count - done} of {count} pictures are not done: start one{again}")


def _told(fleet: Fleet, event: Event) -> Iterator[str]:
    job = event.job
    if job is None:
        yield f"{event.name} is left out: {event.why}"
    elif event.kind == "begun":
        fleet.note(job, RUNNING, where=event.name)
    elif event.kind == "failed":
        fleet.failed[job.source] = event.why
        fleet.note(job, FAILED, why=event.why, where=event.name)
        yield f"{job.source}  failed: {event.why}"
    else:
        made: Made = event.result
        size = job.output.stat().st_size if job.output.is_file() else 0  # a video keeps its own ending
        further = {each.place.name: each.place.stat().st_size for each in made.files if each.place != job.output}
        facts = {"input": made.input, "settings": fleet.stamp, "size": size, "seconds": made.seconds}
        facts |= {"further": further or None}
        fleet.note(job, DONE, **facts, where=event.name)
        for brought in made.files:
            yield f"{brought.place}  from {brought.output} of {event.name}  ({made.seconds:.1f} s)"
            if brought.note:
                yield brought.note
