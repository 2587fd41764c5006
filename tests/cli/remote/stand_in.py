"""A server on loopback that answers as ComfyUI does, and otherwise where a test says so. tests/comfyui has the real one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image

PHASES = ("upload", "prompt", "ws", "history", "queue", "view", "object_info", "interrupt")
PATHS = re.compile(r"/(upload|prompt|ws|history|queue|view|object_info|interrupt)\b")


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Reply = bytes | Iterable[bytes]  # an iterable that ends, ends the connection; a raised OSError resets it
Fault = Callable[["StandIn", Request], Reply]


def http(status: str, body: bytes | str = b"", **headers: str) -> bytes:
    content = body.encode() if isinstance(body, str) else body
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *lines])
    return f"{head}\r\n\r\n".encode() + content


def answer(content: Any) -> bytes:
    return http("200 OK", json.dumps(content))


def handshake(request: Request) -> bytes:
    """The websocket's opening (RFC 6455, section 4.2.2)."""
    key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade"
    return f"{head}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()


def frame(content: bytes, opcode: int = 1, *, fin: bool = True) -> bytes:
    """RFC 6455, section 5.2, unmasked."""
    size = len(content)
    short = 1 if size < 126 else 2 if size < 1 << 16 else 8
    length = bytes([size]) if short == 1 else bytes([126 if short == 2 else 127]) + size.to_bytes(short, "big")
    return bytes([fin << 7 | opcode]) + length + content


def message(kind: str, **data: Any) -> bytes:
    return frame(json.dumps({"type": kind, "data": data}).encode())


def png(size: tuple[int, int] = (8, 8), color: str = "red") -> bytes:
    content = BytesIO()
    Image.new("RGB", size, color).save(content, format="PNG")
    return content.getvalue()


@dataclass
class StandIn:
    """``faults``: for a phase what is done in place of the healthy answer, each once, the last one for ever; None: healthy.

    ``state``: where the run is, once it was sent: queued, running, done or gone. ``outputs``: as in /history.
    """

    faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    state: str = "done"
    outputs: dict[str, Any] = field(
        default_factory=lambda: {"3": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}
    )
    files: dict[str, bytes] = field(default_factory=lambda: {"a.png": png()})
    status: dict[str, Any] = field(default_factory=lambda: {"status_str": "success", "completed": True, "messages": []})
    node_errors: dict[str, Any] = field(default_factory=dict)
    lists: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    run: str = ""
    workflow: dict[str, Any] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> StandIn:
        self.over = threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.url = f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()

    def asked(self, phase: str) -> list[Request]:
        return [request for request in self.requests if _phase(request) == phase]

    # The healthy answers

    def upload(self, request: Request) -> Reply:
        return answer({"name": "in.png", "subfolder": "", "type": "input"})

    def prompt(self, request: Request) -> Reply:
        self.run, self.workflow = request.json["prompt_id"], request.json["prompt"]
        return answer({"prompt_id": self.run, "number": 1, "node_errors": self.node_errors})

    def ws(self, request: Request) -> Iterator[bytes]:
        yield handshake(request)
        yield message("status", status={"exec_info": {"queue_remaining": 0}}, sid="x")
        while not self.over.wait(0.02):
            if self.run and self.state == "done":
                yield message("executing", node=None, prompt_id=self.run)
                self.over.wait()

    def history(self, request: Request) -> Reply:
        if not self.run or self.state != "done" or not request.path.endswith(self.run):
            return answer({})
        prompt = [1, self.run, self.workflow, {}, list(self.outputs)]
        return answer({self.run: {"prompt": prompt, "outputs": self.outputs, "status": self.status}})

    def queue(self, request: Request) -> Reply:
        entry = [[1, self.run, self.workflow, {}, []]]
        running, pending = self.state == "running", self.state == "queued"
        return answer({"queue_running": entry if running else [], "queue_pending": entry if pending else []})

    def view(self, request: Request) -> Reply:
        name = re.search(r"filename=([^&]*)", request.path)
        content = self.files.get(name[1] if name else "")
        return http("404 Not Found") if content is None else http("200 OK", content)

    def object_info(self, request: Request) -> Reply:
        return answer(self.lists)

    def interrupt(self, request: Request) -> Reply:
        return http("200 OK")

    # The wire

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError), connection:
            connection = self.tls.wrap_socket(connection, server_side=True) if self.tls else connection
            request = _request(connection)
            self.requests.append(request)
            phase = _phase(request)
            faults = self.faults.get(phase, [])
            fault = (faults.pop(0) if len(faults) > 1 else faults[0]) if faults else None
            reply = fault(self, request) if fault else getattr(self, phase)(request) if phase else http("404 Not Found")
            for piece in [reply] if isinstance(reply, bytes) else reply:
                connection.sendall(piece)
                if self.over.is_set():
                    return


def _phase(request: Request) -> str:
    found = PATHS.search(request.path)
    return found[1] if found else ""


def _request(connection: socket.socket) -> Request:
    content = b""
    while b"\r\n\r\n" not in content:
        piece = connection.recv(1 << 16)
        if not piece:
            raise OSError("no request came")
        content += piece
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        piece = connection.recv(1 << 16)
        if not piece:
            break
        body += piece
    method, path, _ = first.split(" ", 2)
    return Request(method, path, headers, body)
