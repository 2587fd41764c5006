"""ComfyUI's HTTP API and websocket: send a workflow, follow it to its end, bring its files back."""

from __future__ import annotations

import json
import math
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ...files.errors import plain
from ...files.progress import Progress
from .address import DEFAULT_SERVER, MAX_BYTES
from .answers import Ended, Output, State, accepted, choices, ended, progress_of, standing, uploaded
from .events import Events
from .link import IDLE_SECONDS, Cut, Link, Refused, ServerError, Slow, Unreachable, parsed
from .wire import PIECE, Deadline, DeadlinePassed
from .workflow import Workflow, classes_with_paths, refusal, repaired

TICK = 0.5  # seconds of listening at a time
POLL, POLL_WITH_EVENTS = 1.0, 10.0  # seconds between two looks at the history
HURRY = 0.2  # likewise, where there is a reason
POLL_SECONDS = 30  # for an answer of those
ENDING = ("execution_success", "execution_error", "execution_interrupted")
TRIES, TRY_SECONDS = 3, 1.0  # of a download, and what is waited after the first

Answer = TypeVar("Answer")


class ComfyClient:
    """One ComfyUI server, for one run. Every failure is a ValueError in one sentence.

    ``timeout``: seconds for all that is done, 0 for no limit. ``headers``: "NAME=VALUE" each. ``note``: what the server left
    out of the workflow, as one sentence; empty where it ran all.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        timeout: float = 0,
        headers: Sequence[str] = (),
        cacert: str | None = None,
        insecure: bool = False,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        if max_bytes < 1:
            raise ValueError(f"max_bytes {max_bytes} must be at least 1: raise it, or leave it out for 2 GiB")
        self.deadline, self.max_bytes = Deadline(timeout), max_bytes
        self.link = Link(server, self.deadline, headers=headers, cacert=cacert, insecure=insecure)
        self.id, self.note = uuid.uuid4().hex, ""

    @property
    def server(self) -> str:
        """The address, without a user or password."""
        return str(self.link.address)

    def upload(self, picture: Path) -> str:
        """Put a picture into the server's input folder and return its name there."""
        boundary = uuid.uuid4().hex
        name = "".join(letter if letter.isprintable() and letter not in '"\\' else "_" for letter in picture.name)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        parts = [f"{head}Content-Type: application/octet-stream\r\n\r\n".encode(), picture]
        kind = f"multipart/form-data; boundary={boundary}"
        return self.link.ask("/upload/image", uploaded, body=[*parts, f"\r\n--{boundary}--\r\n".encode()], kind=kind)

    def run(self, workflow: Workflow, *, progress: Progress | None = None) -> tuple[str, list[Output]]:
        """Run a workflow to its end; its id and the files that it left on the server.

        What the caller ends early (Ctrl-C, the timeout, an error of ``progress``) is also stopped on the server. A run that is
        only lost from sight is not.
        """
        workflow = repaired(workflow, self._lists(workflow))
        run, events = str(uuid.uuid4()), Events(self.link, self.id)
        try:
            run = self._submit(workflow, run)
            return run, self._follow(_Watch(run, workflow, State.QUEUED, asked=time.monotonic()), events, progress)
        except ServerError:
            raise
        except DeadlinePassed as error:
            self.cancel(run)
            raise DeadlinePassed(
                f"the run took longer than {self.deadline.seconds:g} s and was stopped: raise --timeout"
            ) from error
        except BaseException:
            self.cancel(run)
            raise
        finally:
            events.close()

    def outputs(self, run: str) -> list[Output]:
        """The files of a run that was sent before, as soon as it has ended."""
        return self._follow(_Watch(run, {}, State.LOST), None, None)

    def download(self, output: Output, sink: BinaryIO) -> None:
        """Write a file into ``sink``."""
        with self._place_of(output) as path:
            for piece in self.link.pieces(path, size=self.max_bytes):
                sink.write(piece)

    def resembles(self, output: Output, file: Path) -> bool:
        """Whether a file here is as long as one of the server and begins as it does, of which little is asked for."""
        with self._place_of(output) as path, self.link.opened(path) as (answer, limits):
            limits.stage(idle=IDLE_SECONDS)
            length, start = answer.length, answer.read(PIECE)
        with file.open("rb") as here:
            return length == file.stat().st_size and here.read(PIECE) == start

    @contextmanager
    def _place_of(self, output: Output) -> Iterator[str]:
        keys = {"filename": output.filename, "subfolder": output.subfolder, "type": output.type}
        try:
            yield f"/view?{urllib.parse.urlencode(keys, errors='replace')}"
        except Refused as error:
            if error.status != 404:
                raise
            name = plain(output.filename, 100)
            raise ServerError(f"{name} of {output} is gone from {self.server}: run the workflow again") from error

    def retried(self, action: Callable[[], Answer]) -> Answer:
        """What a download gives, which may break off now and then."""
        for pause in (*range(1, TRIES), 0):
            try:
                return action()
            except (Cut, Slow, Unreachable):
                if not pause:
                    raise
                self.deadline.sleep(pause * TRY_SECONDS)
        raise AssertionError

    def hint(self, run: str) -> str:
        """How the files of a run can still be had."""
        return f"`dinotile fetch {plain(run, 60)} --server {self.server} -o OUT` brings what is missing"

    def cancel(self, run: str) -> None:
        """Stop a run, or take it out of the queue; a server that does not answer at once needs neither."""
        for path, body in (("/interrupt", {"prompt_id": run}), ("/queue", {"delete": [run]})):
            with suppress(ValueError), self.link.opened(path, [json.dumps(body).encode()], deadline=Deadline(1)):
                pass

    def _lists(self, workflow: Workflow) -> dict[str, dict[str, list[str]]]:
        """What the server lists for the nodes that are given names in folders, which it may write with other slashes."""
        lists = {}
        for kind in classes_with_paths(workflow):
            try:
                path = f"/object_info/{urllib.parse.quote(kind, safe='', errors='replace')}"
                lists[kind] = self.link.ask(path, lambda answer, kind=kind: choices(answer, kind))
            except (Slow, Unreachable):
                raise
            except ServerError:  # behind a gate that shows only what a run needs: names stay as they are
                continue
        return lists

    def _submit(self, workflow: Workflow, run: str) -> str:
        body = json.dumps({"prompt": workflow, "client_id": self.id, "prompt_id": run}).encode()
        try:
            run, self.note = self.link.ask("/prompt", lambda answer: accepted(answer, workflow), body=[body])
        except Refused as error:
            said = refusal(_json_or_nothing(error.content), workflow) if error.status == 400 else ""
            if said:
                raise ServerError(said) from error
            raise
        except (Cut, Slow, Unreachable) as error:  # the answer was lost, the run need not be, and may come later
            if isinstance(error.__cause__, ConnectionRefusedError):
                raise
            if not self._arrives(_Watch(run, workflow, State.QUEUED), Unreachable.patience):
                self.cancel(run)
                raise ServerError(f"{error}; if it still runs, {self.hint(run)}") from error
        return run

    def _arrives(self, watch: _Watch, seconds: float) -> bool:
        """Whether the server comes to know of a run within this time."""
        end = time.monotonic() + seconds
        while True:
            with suppress(ServerError):
                if self._state(watch) is not State.LOST:
                    return True
            if time.monotonic() >= end:
                return False
            self.deadline.sleep(POLL)

    def _follow(self, watch: _Watch, events: Events | None, progress: Progress | None) -> list[Output]:
        """Wait until the run has ended. The websocket tells how far it is; what counts is the history."""
        while True:
            if events is not None:
                watch.hear(events.listen(min(TICK, watch.pause)), progress)
            elif watch.asked > 0:
                self.deadline.sleep(POLL)
            self.deadline.check()
            pause = min(watch.pause, POLL_WITH_EVENTS if events and events.since < watch.asked else POLL)
            if time.monotonic() - watch.asked < pause:
                continue
            found = self._patiently(watch)
            if isinstance(found, Ended):
                if found.failure:
                    raise ServerError(found.failure)
                return found.outputs
            if found is State.LOST:
                raise ServerError(self._lost(watch, dropped=events is not None and events.dropped))
            watch.state = found

    def _patiently(self, watch: _Watch) -> Ended | State:
        """Where the run is. A server that does not answer now may do so later."""
        start = time.monotonic()
        while True:
            try:
                found = self._state(watch)
                watch.asked, watch.pause = time.monotonic(), math.inf
                return found
            except ServerError as error:
                if not watch.asked:  # it never was there
                    raise
                if time.monotonic() - start >= error.patience:
                    said = str(error)
                    if isinstance(error, Unreachable):
                        said = (
                            f"{self.server} vanished in the middle of the run ({error.reason}): restart it, run again"
                        )
                    raise ServerError(f"{said}; {self.hint(watch.run)}") from error
            self.deadline.sleep(POLL)

    def _state(self, watch: _Watch) -> Ended | State:
        """The history, the queue, and the history again, which the run may have reached in between."""
        path, run = f"/history/{urllib.parse.quote(watch.run, safe='', errors='replace')}", watch.run
        for last in (False, True):
            found = self.link.ask(path, lambda answer: ended(answer, run, watch.workflow), seconds=POLL_SECONDS)
            if found is not None:
                return found
            state = (
                State.LOST
                if last
                else self.link.ask("/queue", lambda answer: standing(answer, run), seconds=POLL_SECONDS)
            )
            if state is not State.LOST:
                return state
        return State.LOST

    def _lost(self, watch: _Watch, *, dropped: bool) -> str:
        if watch.state is State.LOST:
            return f"{self.server} does not know the run {plain(watch.run, 60)}: look whether it was restarted, or forgot it"
        if dropped:
            return f"{self.server} no longer knows the run: it was restarted, or the run was deleted, send it again"
        if watch.state is State.RUNNING:
            return f"{self.server} no longer has the results of the run: somebody cleared its history, run it again"
        return f"somebody deleted the run from the queue of {self.server}: send it again"


@dataclass
class _Watch:
    """A run that is followed. ``state``: the last that is known, LOST for nothing. ``asked``: when it was asked for; ``pause``:
    after how many seconds it is asked for again, as it may have changed."""

    run: str
    workflow: Workflow
    state: State
    asked: float = 0.0  # never
    pause: float = math.inf

    def hear(self, message: dict[str, Any] | None, progress: Progress | None) -> None:
        """Learn from a message of the websocket, which may be about anything."""
        if message is None:
            return
        kind, data = message["type"], message["data"]
        if kind == "status" and self.state is State.QUEUED:  # the queue has changed
            self.pause = min(self.pause, POLL)
        if data.get("prompt_id") != self.run:
            return
        if kind in ENDING or (kind == "executing" and data.get("node") is None):
            self.pause = HURRY
        elif kind in ("execution_start", "executing", "progress_state"):
            self.state = State.RUNNING
        if progress is not None and kind == "progress_state":
            for node, done, total in progress_of(data, self.workflow):
                progress(node, done, total)


def _json_or_nothing(content: bytes) -> Any:
    try:
        return parsed(content)
    except ValueError:
        return None
