"""``dinotile upscale --ray``: the pictures of one job on the workers of a Ray cluster.

Each worker is an actor that loads the models once. Ray starts a lost one anew, where there is room, and its picture goes to the
next that is free. Where there are fewer pictures than workers, and a store, they share the tiles. Pictures, models and results
lie at the same paths on every machine.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..files.errors import plain, reason
from ..files.progress import Progress
from ..files.writing import make_folder
from .batch import Batch
from .batch_report import plural, write_report
from .cluster_tiles import Job, Shares, Step
from .cluster_worker import Outcome, State, Worker
from .manifest import DONE, FAILED, RUNNING
from .one import line

LOCAL = "local"
DEATHS = 3  # of workers at a picture, before it counts as failed
ANSWER = 10  # seconds for a cluster's machine to take a connection: Ray itself waits for minutes
PATIENCE = 30  # seconds without a worker before that is said
STARTS = 3  # of a cluster on this machine: Ray gives up on a crowded one after 30 seconds
STAGE = "pictures"


def upscale_on_ray(
    batch: Batch, options: dict[str, Any], *, address: str, workers: int | None, progress: Progress
) -> Iterator[str]:
    """As ``upscale_batch``; pictures that cannot be used are told when a worker meets them. Raises ValueError where the cluster
    cannot be had, and where a worker is not as this machine is."""
    if workers is not None and workers < 1:
        raise ValueError(
            f"workers {workers} must be at least 1: leave it out for one per GPU, or per core where there is none"
        )
    from ..upscaling.settings import UpscaleSettings, settings_for

    given = {field.name: options[field.name] for field in fields(UpscaleSettings) if field.name in options}
    batch.store.check(settings_for(options["variant"], **given), jobs=len(batch.jobs), compare=batch.compare)
    with joined(address, workers) as ray:
        if batch.folder is not None:
            make_folder(batch.folder)
        if batch.manifest is not None:
            batch.manifest.begin()
        try:
            yield from _Cluster(ray, batch, options, workers, progress).run()
        finally:
            if batch.report is not None:
                write_report(batch, None, options={"variant": options["variant"], **options}, seconds={})
            if batch.manifest is not None:
                batch.manifest.close()


@contextmanager
def joined(address: str, workers: int | None) -> Iterator[Any]:
    """Ray, connected to the cluster of that address, or to one that is started on this machine and ended with the block."""
    try:
        import ray  # type: ignore
    except ImportError as error:
        raise ValueError(
            'ray is not installed: pip install "dinotile[ray]", of the version that the cluster has'
        ) from error
    before, said = signal.getsignal(signal.SIGTERM), ""
    for _ in range(STARTS if address == LOCAL else 1):
        said = _connected(ray, address, workers)
        if not said:
            break
    signal.signal(signal.SIGTERM, before)  # which Ray takes
    if said:
        advice = "start one with `ray start --head`, or give its address"
        if "version mismatch" in said.lower():
            advice = "install the cluster's versions of Ray and Python here"
        elif address == LOCAL:
            advice = "look at the load of this machine, or leave --ray out"
        raise ValueError(f"the Ray cluster {address} cannot be joined ({said}): {advice}")
    try:
        yield ray
    finally:
        ray.shutdown()


def _connected(ray: Any, address: str, workers: int | None) -> str:
    """Nothing, or why it did not become so."""
    try:
        if address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers otherwise
            ray.init(LOCAL, num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        else:
            if found := re.fullmatch(r"(?:ray://)?\[?(.+?)\]?:(\d+)", address):
                socket.create_connection((found[1], int(found[2])), timeout=ANSWER).close()
            ray.init(address, log_to_driver=False, logging_level="error")
        return ""
    except Exception as error:  # of Ray's many kinds, the bare one too, where a machine starts too slowly for it
        ray.shutdown()
        return plain(reason(error), 300).rstrip(". ")


class _Cluster:
    """calls: what the workers are asked, and about which picture, or None where they are asked whether they are ready. idle:
    those that found nothing waiting. shares: of the pictures whose tiles are shared."""

    def __init__(
        self, ray: Any, batch: Batch, options: dict[str, Any], workers: int | None, progress: Progress
    ) -> None:
        self.ray, self.batch, self.progress = ray, batch, progress
        self.calls: dict[Any, tuple[Any, Job | None]] = {}
        self.idle: list[Any] = []
        self.shares: dict[Path, Shares] = {}
        self.count, self.ended, self.alike = len(batch.jobs), 0, State("", version("dinotile"), batch.stamp)
        self.skipped = batch.manifest is not None and bool(batch.manifest.kept)
        has = ray.cluster_resources()
        kind = "CPU" if options.get("device") == "cpu" or not has.get("GPU") else "GPU"
        needs = {"num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}
        self.needs = f"1 {kind}"
        made = ray.remote(max_restarts=-1, **needs)(Worker)
        alone = replace(batch, jobs=[], folder=None, report=None, done=[], failed={}, manifest=None)
        self.workers = workers or max(1, int(has.get(kind, 1)))
        self.first: Step = "waves" if batch.store.folder is not None and self.count < self.workers else "picture"
        if self.first == "picture":
            self.workers = min(self.workers, self.count)
        self.waiting = deque(Job(*job, self.first) for job in batch.jobs)
        for _ in range(self.workers):
            self._ask(made.remote(alone, options))

    def _ask(self, worker: Any) -> None:
        """Whether it is ready; a lost worker answers when Ray has started it anew."""
        self.calls[worker.ready.options(max_task_retries=-1).remote()] = worker, None

    def _give(self, worker: Any) -> None:
        if not self.waiting:
            self.idle.append(worker)
        else:
            job = self.waiting.popleft()
            source, output = job.source.absolute(), job.output.absolute()
            if job.step == self.first:
                self.batch.note(job.source, job.output, RUNNING)
            if job.step == "waves":
                call = worker.waves.remote(source, output)
            elif job.step == "tiles":
                call = worker.tiles.remote(source, job.tiles)
            else:
                call = worker.upscale.remote(source, output)
            self.calls[call] = worker, job

    def run(self) -> Iterator[str]:
        yield f"{plural(self.count, 'picture')} for {plural(self.workers, 'worker')} of {self.needs} each"
        self.progress(STAGE, 0, self.count)
        start, met = time.monotonic(), False
        while self.ended < self.count:
            ended, _ = self.ray.wait(calls := list(self.calls), timeout=PATIENCE)
            if ended:  # all that have, as a look at a thousand calls takes a while
                ended, _ = self.ray.wait(calls, num_returns=len(calls), timeout=0)
            for call in ended:
                worker, job = self.calls.pop(call)
                yield from self._heard(call, worker, job)
                met = True
            begun = sum(shares.done / shares.total for shares in self.shares.values())
            self.progress(STAGE, self.ended + begun, self.count)
            if not met and time.monotonic() - start >= PATIENCE:
                why = f"they load models, or the cluster has no room for one ({self.needs})"
                yield f"no worker is ready after {PATIENCE} s: {why}"
                met = True

    def _heard(self, call: Any, worker: Any, job: Job | None) -> Iterator[str]:
        try:
            answer = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:  # a fault of the program
            raise error.as_instanceof_cause() from None
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.RaySystemError) as error:
            yield from self._lost(job, plain(str(error).strip().splitlines()[0], 200))
            self._ask(worker)
            return
        if job is None:
            self._check(answer)
        elif job.source not in self.batch.failed:
            yield from self._ended(job, answer)
        self._give(worker)

    def _lost(self, job: Job | None, why: str) -> Iterator[str]:
        if job is None or job.source in self.batch.failed:
            return
        job.deaths += 1
        if job.deaths < DEATHS:
            self.waiting.appendleft(job)
            self._wake()  # as its own worker may never come back
            yield f"{job.source}  its worker was lost, another goes on with it ({why})"
        else:
            yield from self._failed(job, f"{DEATHS} workers were lost at it, the last: {why}", where="")

    def _wake(self) -> None:
        while self.idle and self.waiting:
            self._give(self.idle.pop())

    def _failed(self, job: Job, why: str, *, where: str) -> Iterator[str]:
        self.ended += 1
        self.shares.pop(job.source, None)
        self.waiting = deque(other for other in self.waiting if other.source != job.source)
        self.batch.failed[job.source] = why
        self.batch.note(job.source, job.output, FAILED, why=why, where=where)
        yield f"{job.source}  failed: {why}"

    def _ended(self, job: Job, outcome: Outcome) -> Iterator[str]:
        if outcome.failed:
            yield from self._failed(job, outcome.failed, where=outcome.where)
            return
        if job.step != "picture":
            self._further(job, outcome)
            return
        self.ended += 1
        shares = self.shares.pop(job.source, None)
        report, lines, seconds = outcome.report, outcome.lines, outcome.seconds
        if shares is not None:
            report, seconds = shares.whole(outcome), round(shares.seconds + seconds, 3)
            lines = [line(job.output, report, seconds=seconds), *lines[1:]]
        self.batch.done.append(report | {"file": str(job.source), "written": str(job.output)})
        self.batch.note(
            job.source, job.output, DONE, where=outcome.where, **self.batch.made(job.source, job.output, seconds)
        )
        yield from lines

    def _further(self, job: Job, outcome: Outcome) -> None:
        """The next wave of a picture's tiles, as soon as the last one is finished; after all of them the picture itself."""
        if job.step == "waves":
            shares = self.shares[job.source] = Shares.of(outcome.waves, workers=self.workers)
        else:
            shares = self.shares[job.source]
            shares.finished(job.tiles, outcome)
        if shares.over:
            self.waiting.append(Job(job.source, job.output))
        else:
            self.waiting.extend(Job(job.source, job.output, "tiles", group) for group in shares.following())
        self._wake()

    def _check(self, state: State) -> None:
        """ValueError where a worker is not as the others are, or as this machine is where its manifest was followed."""
        if state.problem:
            raise ValueError(f"the worker on {state.where} cannot work: {state.problem}")
        if state.version != self.alike.version:
            raise ValueError(
                f"the worker on {state.where} has DINOTile {state.version}, here it is {self.alike.version}: install one version"
            )
        if not self.skipped and not self.alike.where:  # models of the hub may be on the workers only
            self.alike = replace(self.alike, stamp=state.stamp, where=state.where)
            self.batch.stamp = state.stamp
        elif state.stamp != self.alike.stamp:
            raise ValueError(
                f"the worker on {state.where} has other models or masks than {self.alike.where or 'this machine'} under the same "
                "names: give all machines the same"
            )
