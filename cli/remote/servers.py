"""Several ComfyUI servers for one job: which of them answer, whether they agree, and what one of them does with a picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ...files.errors import reason
from ...files.fingerprints import file_fingerprint
from .answers import part
from .client import POLL_SECONDS, ComfyClient
from .link import Refused, ServerError, Slow, Unreachable
from .pool import Gone, Job
from .results import Brought, bring, place_of
from .run import fetchable, send
from .wire import DeadlinePassed
from .workflow import Workflow

OWN = "DinoTile_"  # how the classes of this pack's nodes begin
NO_VERSION = "none that it tells"


@dataclass(frozen=True)
class Made:
    """What a server made of a picture: its files here, the fingerprint of the picture, and what it took."""

    files: list[Brought]
    input: str
    seconds: float


@dataclass
class Servers:
    """addresses: by name, which shows no password. make: a client of an address, for one run. taken: outputs of all jobs, which
    no further file of another may take. claim: told where a job's files go before they are written, which it may refuse.
    may_replace: whether what is in such a place goes."""

    graph: Workflow
    settings: Sequence[str]
    make: Callable[[str], ComfyClient]
    taken: Collection[Path]
    inputs: Sequence[Path]
    claim: Callable[[Job, Sequence[Path]], None]
    may_replace: Callable[[Path], bool]
    addresses: dict[str, str] = field(default_factory=dict)
    at_work: dict[str, ComfyClient] = field(default_factory=dict)
    stopped: bool = False

    def work(self, name: str, job: Job) -> Made:
        """Have a server do a picture, and bring its files. Raises ``Gone``, or ValueError where the picture fails there."""
        start, client = time.perf_counter(), self.make(self.addresses[name])
        self.at_work[name] = client
        try:
            if self.stopped:  # before this client was there to be told
                raise Gone("the job was ended")
            fingerprint = _fingerprint(job.source)
            run, outputs = send(client, self.graph, job.source, self.settings, None)
            if client.note:
                raise ValueError(client.note)
            places = [place_of(job.output, number, output) for number, output in enumerate(outputs, start=1)]
            others = sorted(str(place) for place in places[1:] if place in self.taken)
            if others:
                raise ValueError(
                    f"its results would take the place of another's, {others[0]}: name the inputs otherwise"
                )
            with fetchable(client, run):
                self.claim(job, places)
                files = list(bring(client, outputs, job.output, inputs=self.inputs, overwrite=self.may_replace))
        except ValueError as error:
            if _gone(error):
                raise Gone(str(error)) from error
            raise
        finally:
            del self.at_work[name]
        return Made(files, fingerprint, round(time.perf_counter() - start, 3))

    def stop(self) -> None:
        """End what runs or begins, here and on the servers, within a moment."""
        self.stopped = True
        for client in list(self.at_work.values()):
            client.deadline.end = 0.0

    def answering(self, addresses: Sequence[str]) -> Iterator[tuple[str, str | None, str]]:
        """Of each address its name, why it does not answer (None where it does), and its DINOTile version."""

        def ask(address: str) -> tuple[str, str | None, str]:
            client = self.make(address)
            try:
                told = client.link.ask(
                    "/dinotile/version", lambda answer: part(answer, "dinotile", str), seconds=POLL_SECONDS
                )
                return client.server, None, told
            except Refused:  # an older one, or behind a gate that shows only what a run needs
                return client.server, None, NO_VERSION
            except (ServerError, DeadlinePassed) as error:
                return client.server, str(error), NO_VERSION

        with ThreadPoolExecutor(len(addresses)) as pool:
            yield from pool.map(ask, addresses)


def uses_this_pack(graph: Workflow) -> bool:
    return any(node["class_type"].startswith(OWN) for node in graph.values())


def check_alike(versions: dict[str, str]) -> None:
    """ValueError where servers, by name, have different versions of DINOTile, whose results need not be alike."""
    if len(set(versions.values())) > 1:
        told = ", ".join(f"{name} has {version}" for name, version in versions.items())
        raise ValueError(f"the servers have different versions of DINOTile ({told}): update them, or leave some out")


def _fingerprint(picture: Path) -> str:
    try:
        return file_fingerprint(picture)
    except OSError as error:  # it may have gone since the job began, which is no reason to end it
        raise ValueError(f"{picture} cannot be read ({reason(error)}): give the path of a picture") from error


def _gone(error: BaseException | None) -> bool:
    """Whether it comes of a server that is not there or has no answer, and not of the picture."""
    while error is not None:
        if isinstance(error, (Unreachable, Slow)):
            return True
        error = error.__cause__
    return False
