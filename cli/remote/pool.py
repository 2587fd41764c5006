"""Jobs that several servers share: each takes the next one when it is free, and what one leaves the others do."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Any, Literal

TRIES = 2  # servers on which a job fails before it counts as failed
STRIKES = 3  # jobs in a row that fail on a server while others do theirs, before it is left out
STOP_SECONDS = 5  # that threads have to end in


class Gone(Exception):
    """The server is no longer there; its message says why."""


@dataclass
class Job:
    """A picture and where its result goes. tried: servers on which it failed, and why."""

    source: Path
    output: Path
    tried: dict[str, str] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """One reason where all servers give the same."""
        reasons = set(self.tried.values())
        return reasons.pop() if len(reasons) == 1 else "; ".join(f"{name}: {why}" for name, why in self.tried.items())


@dataclass(frozen=True)
class Event:
    """What happened on a server. job: but for "out", where the server is left out. result: of a job that is done."""

    kind: Literal["begun", "done", "failed", "out"]
    name: str
    job: Job | None = None
    why: str = ""
    result: Any = None


class Pool:
    """work(name, job): does a job on a server; raises ``Gone``, or ValueError where the job failed there."""

    def __init__(self, jobs: Sequence[Job], names: Sequence[str], work: Callable[[str, Job], Any]) -> None:
        self.waiting, self.names, self.work = deque(jobs), list(names), work
        self.running, self.stopped, self.changed = 0, False, Condition()
        self.strikes, self.worked = Counter[str](), set[str]()
        self.events: SimpleQueue[Event | BaseException | None] = SimpleQueue()

    def run(self, *, stop: Callable[[], None]) -> Generator[Event, None, None]:
        """Do all jobs, as far as there are servers. stop: makes running work end soon; called where the caller ends early."""
        threads = [Thread(target=self._serve, args=(name,), daemon=True) for name in self.names]
        for thread in threads:
            thread.start()
        try:
            for _ in threads:
                while (event := self.events.get()) is not None:
                    if isinstance(event, BaseException):
                        raise event
                    yield event
        finally:
            with self.changed:
                self.stopped = True
                self.changed.notify_all()
            if any(thread.is_alive() for thread in threads):
                stop()
            for thread in threads:
                thread.join(STOP_SECONDS)

    def _serve(self, name: str) -> None:
        try:
            while (job := self._take(name)) is not None:
                self.events.put(Event("begun", name, job))
                try:
                    result = self.work(name, job)
                except Gone as error:
                    self._ended(name, job, gone=str(error))
                except ValueError as error:
                    self._ended(name, job, why=str(error))
                else:
                    self.events.put(Event("done", name, job, result=result))
                    self._ended(name)
        except BaseException as error:  # a fault of the program, which the caller's thread raises
            self.events.put(error)
        self.events.put(None)

    def _take(self, name: str) -> Job | None:
        """The first job that did not fail on this server, as soon as there is one; None where there will be none."""
        with self.changed:
            while not self.stopped and name in self.names and (self.waiting or self.running):
                for job in self.waiting:
                    if name not in job.tried:
                        self.waiting.remove(job)
                        self.running += 1
                        return job
                self.changed.wait()
        return None

    def _ended(self, name: str, job: Job | None = None, *, why: str = "", gone: str = "") -> None:
        """Note how a job ended; one that comes back is the next."""
        with self.changed:
            self.running -= 1
            if job is None:
                self.worked.add(name)
                self.strikes[name] = 0
            else:
                self.waiting.appendleft(job)
            if job is not None and why:
                job.tried[name] = why
                self.strikes[name] += 1
            if not gone and self.strikes[name] >= STRIKES and self.worked - {name}:
                gone = f"{STRIKES} pictures in a row failed there and not elsewhere, the last: {why}"
            if gone:
                self.names.remove(name)
                self.events.put(Event("out", name, why=gone))
            self._sift()
            self.changed.notify_all()

    def _sift(self) -> None:
        """Give up jobs that failed often enough, or on all servers that are left."""
        for job in list(self.waiting):
            if self.names and job.tried and (len(job.tried) >= TRIES or {*self.names} <= job.tried.keys()):
                self.waiting.remove(job)
                self.events.put(Event("failed", next(reversed(job.tried)), job, job.why))
