"""Runs against servers that misbehave. ``python -m tests.fuzz.bad_servers COUNT SEED``: a line of JSON each, then the memory.

A behaviour is a fault in one of the phases of a run. It must end in a result or in one sentence, soon after the deadline.
"""

from __future__ import annotations

import json
import random
import re
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dinotile
from dinotile.cli.remote import client
from dinotile.cli.sentences import for_the_user

from ..cli.remote.stand_in import Fault, Reply, Request, StandIn, answer, frame, handshake, http, message, png
from ..cli.remote.test_workflow import WORKFLOW

SECONDS, LONGER = 0.7, 10.0  # the deadline of a run; of one whose websocket alone is at fault, which must not matter
WORKERS = 8
PHASES = ("upload", "prompt", "ws", "history", "queue", "view", "object_info")
OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TEXT = "\x1b[2J [/x] \u202e \ud800 \x00 \u2028 \U0001f600"
ODD = [None, True, -1, 10**400, 1e308, "", TEXT, [], {}, [[[]]], {"a": TEXT}, "x" * 10_000, "../../x", ["1", 0]]


def fixed(content: bytes) -> Fault:
    return lambda server, request: content


def forever(start: bytes, piece: bytes, pause: float = 0.0) -> Fault:
    def flood(server: StandIn, request: Request) -> Iterator[bytes]:
        yield start
        while True:
            yield piece
            time.sleep(pause)

    return flood


def dripping(content: bytes) -> Fault:
    def drip(server: StandIn, request: Request) -> Iterator[bytes]:
        for letter in content:
            yield bytes([letter])
            time.sleep(0.03)

    return drip


def silent(server: StandIn, request: Request) -> Reply:
    server.over.wait()
    return b""


def redirecting(to: str, status: str = "307 Temporary Redirect") -> Fault:
    return fixed(http(status, Location=to))


GENERIC: dict[str, Fault] = {
    "closes at once": fixed(b""),
    "silent": silent,
    "drips its head": dripping(OK + b"X: y\r\n" * 50),
    "drips its body": dripping(OK + b"Content-Length: 1000\r\n\r\n" + b" " * 1000),
    "endless head": forever(OK, b"X: y\r\n"),
    "endless line": forever(OK + b"X: ", b"y" * 1000),
    "endless status": forever(b"", b"y" * 1000),
    "endless 100": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "endless body": forever(OK + b"\r\n", b" " * 10_000),
    "endless chunks": forever(CHUNKED, b"1\r\n \r\n"),
    "endless chunk size": forever(CHUNKED, b"0" * 1000),
    "endless trailers": forever(CHUNKED + b"0\r\n", b"X: y\r\n"),
    "negative chunk": forever(CHUNKED + b"-5\r\n", b" " * 1000),
    "wrong chunk": fixed(CHUNKED + b"zz\r\n1"),
    "cut body": fixed(OK + b"Content-Length: 1000\r\n\r\n{"),
    "giant length": fixed(OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{"),
    "negative length": fixed(OK + b"Content-Length: -1\r\n\r\n{}"),
    "no http": fixed(bytes(range(256)) * 4),
    "tls": fixed(b"\x15\x03\x03\x00\x02\x02\x28"),
    "a page": fixed(http("200 OK", "<html>")),
    "nothing": fixed(http("200 OK")),
    "204": fixed(http("204 No Content")),
    "gzip": fixed(http("200 OK", zlib.compress(b"{}"), Content_Encoding="gzip")),
    "deep": fixed(http("200 OK", b"[" * 200_000)),
    "wide": fixed(http("200 OK", b"[" + b"{}," * 3_000_000 + b"{}]")),
    "numbers": fixed(http("200 OK", b'{"a": NaN, "b": ' + b"1" * 5000 + b"}")),
    "bytes": fixed(http("200 OK", b'{"a": "\xff\xfe"}')),
    "text": fixed(answer({TEXT: TEXT, "name": TEXT, "prompt_id": TEXT})),
    "status of text": fixed(f"HTTP/1.1 400 {TEXT[:12]}\r\n\r\n".encode()),
    "status 999999": fixed(b"HTTP/1.1 999999 X\r\n\r\n"),
    **{status[:3]: fixed(http(status, TEXT.encode("utf-8", "surrogatepass"))) for status in (
        "400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found", "413 Too Large", "500 Oops", "502 Bad Gateway")},
    "circle": lambda server, request: http("307 Temporary Redirect", Location=request.path),
    "other host": redirecting("http://127.0.0.2:9/"),
    "file": redirecting("file:///etc/passwd"),
    "odd place": redirecting("http://[::1"),
    "no place": fixed(http("302 Found")),
    "cookies": fixed(http("200 OK", "{}", Set_Cookie="a=\x01;;=; b")),
}  # fmt: skip


def opened(*pieces: bytes, then: Callable[[StandIn], bytes] | None = None) -> Fault:
    """A websocket that says this, and then something else for ever or nothing."""

    def talk(server: StandIn, request: Request) -> Iterator[bytes]:
        yield handshake(request) + b"".join(pieces)
        while not server.over.wait(0.001):
            yield then(server) if then else b""

    return talk


def told(**state: Any) -> Fault:
    """Progress of a node of ours."""
    node = {"node_id": "2", "state": "running", "value": 1, "max": 2} | state
    return opened(then=lambda server: message("progress_state", prompt_id=server.run, nodes={"2": node}))


SOCKETS: dict[str, Fault] = {
    "pings": opened(then=lambda _: frame(b"", 9)),
    "long ping": opened(frame(b"x" * 126, 9)),
    "pongs": opened(then=lambda _: frame(b"x", 10)),
    "fragments": opened(frame(b"{", fin=False), then=lambda _: frame(b" ", 0, fin=False)),
    "fragment of nothing": opened(frame(b"", 0)),
    "giant frame": opened(b"\x81\x7f" + (1 << 62).to_bytes(8, "big"), then=lambda _: b" " * 1000),
    "negative frame": opened(b"\x81\x7f" + b"\xff" * 8),
    "reserved bits": opened(b"\xf1\x00"),
    "unknown opcode": opened(b"\x83\x00"),
    "masked": opened(b"\x81\x82abcd{}"),
    "no utf-8": opened(frame(b"\xff\xfe")),
    "deep": opened(frame(b"[" * 100_000)),
    "binary": opened(then=lambda _: frame(b"\x00" * 5000, 2)),
    "chatter": opened(then=lambda _: message("progress", prompt_id=TEXT, value=1)),
    "changes": opened(then=lambda _: message("status", status={})),
    "ended": opened(then=lambda server: message("executing", prompt_id=server.run, node=None)),
    "close": opened(b"\x88\x00"),
    "close with less": opened(b"\x88\x01x"),
    "wrong accept": fixed(
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
    ),
    "odd progress": told(value=10**400, max=-1),
    "large progress": told(value=1e300, max=1e308),
    "text progress": told(node_id=TEXT, state=TEXT),
}


def bomb() -> bytes:
    """A PNG that says it is 60,000 px wide and high."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


WHOLE = png((200, 200))
VIEWS: dict[str, Fault] = {
    "cut": fixed(http("200 OK", WHOLE)[:-30]),
    "ends early": fixed(http("200 OK", WHOLE[:-30])),
    "flipped": fixed(http("200 OK", WHOLE[:70] + bytes([WHOLE[70] ^ 1]) + WHOLE[71:])),
    "bomb": fixed(http("200 OK", bomb())),
    "svg": fixed(http("200 OK", "<svg/>")),
    "postscript": fixed(http("200 OK", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")),
    "a folder": redirecting("/"),
}


def changed(healthy: Any, chance: random.Random) -> Any:
    """JSON with one part of it replaced, renamed or left out."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk([healthy])
    copied = json.loads(json.dumps(healthy))
    places.clear()
    walk(copied)
    if not places or chance.random() < 0.1:
        return chance.choice(ODD)
    holder, key = chance.choice(places)
    holder[key] = chance.choice(ODD)
    return copied


def mutating(phase: str, seed: int) -> Fault:
    """The healthy answer, other each time."""
    chance = random.Random(seed)

    def mutate(server: StandIn, request: Request) -> Reply:
        reply = getattr(server, phase)(request)
        head, _, body = reply.partition(b"\r\n\r\n")
        return http(head.decode().split("\r\n")[0].partition(" ")[2], json.dumps(changed(json.loads(body), chance)))

    return mutate


def behaviours(count: int, seed: int) -> list[tuple[str, str, Fault]]:
    """(phase, name, fault) of ``count`` behaviours: every kind of fault, each in a phase that is drawn."""
    chance = random.Random(seed)
    found = [("ws", name, fault) for name, fault in SOCKETS.items()]
    found += [("view", name, fault) for name, fault in VIEWS.items()]
    found += [(chance.choice(PHASES), name, fault) for name, fault in GENERIC.items()]
    chance.shuffle(found)
    talking = ("upload", "prompt", "history", "queue", "object_info")
    extra = max(0, count - len(found))
    found += [(phase, f"changed {n}", mutating(phase, seed + n)) for n in range(extra) for phase in [talking[n % 5]]]
    return found[:count]


def tried(phase: str, name: str, fault: Fault, folder: Path) -> dict[str, Any]:
    """What a run comes to on a server with one fault."""
    shown: list[str] = []

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        shown.append(f"{stage} {int(done)}/{int(total)}")

    loader = {"class_type": "Loader", "inputs": {"model": "a/b.safetensors"}}
    lists = {"Loader": {"input": {"required": {"model": [["a\\b.safetensors"]]}}}}
    (folder / "workflow.json").write_text(json.dumps(WORKFLOW | {"8": loader}))
    (folder / "in.png").write_bytes(png())
    state = "running" if phase == "queue" else "done"
    timeout = LONGER if phase == "ws" and name in SOCKETS else SECONDS
    start, said, kind = time.monotonic(), "", "done"
    with StandIn(faults={phase: [fault]}, state=state, lists=lists) as server:
        try:
            result = dinotile.run_workflow(
                folder / "workflow.json", folder / "in.png", server=server.url, timeout=timeout, progress=progress
            )
            result.save(folder / "out.png")
        except Exception as error:
            sentence = for_the_user(error)
            kind, said = ("refused", sentence) if sentence else (f"broke with {type(error).__name__}", str(error))
    seconds = time.monotonic() - start
    return {"phase": phase, "name": name, "kind": kind, "said": said, "shown": shown[:5], "seconds": round(seconds, 2)}


def peak() -> float:
    """GiB of this process alone; what getrusage says begins at the peak of the one that started it."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 2**20


def main() -> None:
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    client.POLL, client.POLL_WITH_EVENTS, client.TRY_SECONDS = 0.1, 0.2, 0.05
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(WORKERS) as pool:

        def run(numbered: tuple[int, tuple[str, str, Fault]]) -> dict[str, Any]:
            folder = Path(place) / str(numbered[0])
            folder.mkdir()
            return tried(*numbered[1], folder)

        run((-1, ("interrupt", "healthy", silent)))  # imports what is imported late
        for result in pool.map(run, enumerate(behaviours(count, seed))):
            sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.write(json.dumps({"memory": peak()}) + "\n")


if __name__ == "__main__":
    main()
