"""One request to a server and its answer. Here every failure becomes a sentence, and what may be asked again is known."""

from __future__ import annotations

import http.client
import ssl
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import websocket

from ...files.errors import plain, reason
from .address import Address, headers_for, parse_address
from .wire import HEAD_BYTES, PIECE, Deadline, Limits, TooLarge, connect, proxy_headers, tls
from .workflow import read_json

ANSWER_SECONDS = 300  # for an answer to come whole: a server that loads models is deaf for minutes
IDLE_SECONDS = 60  # without a byte of a file
JSON_BYTES = 64 << 20
JSON_VALUES = 2_000_000  # at most: each takes up to 100 bytes of memory
REDIRECTS = (301, 302, 303, 307, 308)
BUSY = (408, 429, 502, 503, 504)  # statuses that a later request need not get

Content = TypeVar("Content")


class ServerError(ValueError):
    """What went wrong at the server, as one sentence. ``patience``: seconds for which it is worth asking again."""

    patience = 0.0


class Unreachable(ServerError):
    """Nobody is there, or the connection broke; ``reason``: why, in a few words."""

    patience, reason = 15.0, ""


class Slow(ServerError):
    """It is there, but has no answer now."""

    patience = 300.0


class Refused(ServerError):
    """An answer with another status than 200; ``content``: the beginning of what it says."""

    def __init__(self, sentence: str, status: int, content: bytes) -> None:
        super().__init__(sentence)
        self.status, self.content = status, content


class Cut(ServerError):
    """An answer that ended before its end."""

    patience = 15.0


class Link:
    """A server's address, how we prove who we are, and the deadline of all that is asked there."""

    def __init__(
        self, server: str, deadline: Deadline, *, headers: Sequence[str] = (), cacert: str | None, insecure: bool
    ) -> None:
        self.address, user = parse_address(server)
        self.headers = headers_for(user, headers)
        self.deadline, self._trusted = deadline, (cacert, insecure)
        if cacert:
            _ = self.context  # complains before anything is sent

    @cached_property
    def context(self) -> ssl.SSLContext:
        """How servers prove who they are; the system's certificates take a while to read, and plain HTTP needs none."""
        return tls(*self._trusted)

    @property
    def socket(self) -> str:
        """The address for websockets."""
        return f"ws{str(self.address)[4:]}"

    def ask(
        self,
        path: str,
        read: Callable[[Any], Content],
        *,
        body: Sequence[bytes | Path] = (),
        kind: str = "application/json",
        seconds: float = ANSWER_SECONDS,
    ) -> Content:
        """What ``read`` makes of the JSON at ``path``; a ValueError of it means that this is no ComfyUI."""
        with self.opened(path, body, kind=kind, seconds=seconds) as (answer, limits):
            limits.stage(seconds=seconds, idle=seconds, size=2 * JSON_BYTES)
            content = b"".join(_pieces(answer, JSON_BYTES))
        try:
            return read(parsed(content))
        except ValueError as error:
            raise ServerError(
                f"{self.address}{_without_query(path)} did not answer as ComfyUI does: check the address"
            ) from error

    def pieces(self, path: str, *, size: int) -> Iterator[bytes]:
        """What is at ``path``, piece by piece, at most ``size`` bytes."""
        with self.opened(path) as (answer, limits):
            limits.stage(idle=IDLE_SECONDS, size=2 * size + HEAD_BYTES)
            if (answer.length or 0) > size:
                raise TooLarge
            yield from _pieces(answer, size)

    @contextmanager
    def opened(
        self,
        path: str,
        body: Sequence[bytes | Path] = (),
        *,
        kind: str = "application/json",
        seconds: float = ANSWER_SECONDS,
        deadline: Deadline | None = None,
    ) -> Iterator[tuple[http.client.HTTPResponse, Limits]]:
        """A request whose answer has the status 200, and the limits that reading it keeps to. POST where there is a body."""
        deadline = deadline or self.deadline
        limits = Limits(deadline)
        with self._told(path, deadline):
            connection, answer = self._answer(path, body, kind, limits, seconds)
            try:
                if answer.status != 200:
                    self._refuse(path, answer, limits)
                yield answer, limits
            finally:
                answer.close()
                connection.close()

    def websocket(self, path: str, limits: Limits) -> websocket.WebSocket:
        """A websocket at ``path``; raises what the library and the system raise."""
        connection, _ = connect(self.address, limits, self.context if self.address.secure else None, tunnel=True)
        opened = websocket.WebSocket(enable_multithread=False, skip_utf8_validation=True)
        headers = [f"{name}: {value}" for name, value in self.headers.items()]
        opened.connect(
            f"{self.socket}{path}", socket=connection.sock, header=headers, suppress_origin=True, redirect_limit=0
        )
        return opened

    def _answer(
        self, path: str, body: Sequence[bytes | Path], kind: str, limits: Limits, seconds: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """The head of the last answer, after redirects on the same host."""
        place, address = path, self.address
        for _ in range(5):
            limits.stage(seconds=seconds)
            connection, whole = connect(address, limits, self.context if address.secure else None)
            try:
                target = f"{address}{place}" if whole else f"{address.path}{place}"
                headers = self.headers | (proxy_headers(address) if whole else {})
                answer = _sent(connection, target, headers, body, kind, limits, seconds)
                if answer.status not in REDIRECTS:
                    return connection, answer
                address, place = _next(address, place, answer)
            except BaseException:
                connection.close()
                raise
            connection.close()
            body = () if answer.status == 303 else body
            if place == path:
                self.address = address  # it has moved as a whole, as from http to https
        raise ServerError(f"{self.address}{_without_query(path)} sends on in a circle: check the address")

    def _refuse(self, path: str, answer: http.client.HTTPResponse, limits: Limits) -> NoReturn:
        limits.stage(seconds=IDLE_SECONDS, size=2 * HEAD_BYTES)
        try:
            content = b"".join(_pieces(answer, HEAD_BYTES))
        except (TooLarge, OSError, http.client.HTTPException):
            content = b""  # the status says enough
        said = f"{self.address}{_without_query(path)} answered {answer.status} {plain(answer.reason, 100)}".rstrip()
        if answer.status in BUSY:
            raise Slow(said)
        advice = {
            401: ": give what it asks for with --header or DINOTILE_AUTH",
            403: ": give what it asks for with --header or DINOTILE_AUTH",
            413: ": give a smaller picture, or start ComfyUI with a larger --max-upload-size",
        }
        raise Refused(said + advice.get(answer.status, ""), answer.status, content)

    @contextmanager
    def _told(self, path: str, deadline: Deadline) -> Iterator[None]:
        """Turn what the network raises into one sentence."""
        place = f"{self.address}{_without_query(path)}"
        try:
            yield
        except TooLarge as error:
            raise ServerError(f"{place} sent more than is allowed: check the address, or raise --max-bytes") from error
        except TimeoutError as error:
            deadline.check()
            raise Slow(f"{place} did not answer in time: look at the server, or ask again") from error
        except http.client.IncompleteRead as error:
            deadline.check()
            raise Cut(f"{place} broke off before its end: look at the network, or ask again") from error
        except ssl.SSLCertVerificationError as error:
            raise ServerError(
                f"the certificate of {self.address} is not trusted ({plain(error.verify_message, 100)}): "
                "give its authority with --cacert, or --insecure"
            ) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            deadline.check()
            why = plain(reason(error), 200).rstrip(".") or type(error).__name__
            gone = Unreachable(
                f"{self.address} cannot be reached ({why}): start ComfyUI there, or give its address with --server"
            )
            gone.reason = why
            raise gone from error


def parsed(content: bytes) -> Any:
    """JSON of a server: numbers finite, nesting and size bounded. Raises ValueError."""
    if sum(map(content.count, (b",", b"[", b"{"))) > JSON_VALUES:
        raise ValueError("it holds too many values")
    return read_json(content)


def _sent(
    connection: http.client.HTTPConnection,
    target: str,
    headers: dict[str, str],
    body: Sequence[bytes | Path],
    kind: str,
    limits: Limits,
    seconds: float,
) -> http.client.HTTPResponse:
    """Send a request, however long that takes, and read the head of its answer."""
    headers = headers | {"Connection": "close"}
    length = sum(part.stat().st_size if isinstance(part, Path) else len(part) for part in body)
    if body:
        headers |= {"Content-Type": kind, "Content-Length": str(length)}
    limits.stage(idle=seconds)
    try:
        connection.request("POST" if body else "GET", target, _chunks(body) if body else None, headers)
    except (BrokenPipeError, ConnectionResetError):  # it may have refused in the middle, and have said why
        limits.stage(seconds=1)
        return connection.getresponse()
    limits.stage(seconds=seconds, idle=seconds)
    return connection.getresponse()


def _chunks(body: Sequence[bytes | Path]) -> Iterator[bytes]:
    for part in body:
        if isinstance(part, bytes):
            yield part
            continue
        try:
            with part.open("rb") as file:
                while piece := file.read(PIECE):
                    yield piece
        except OSError as error:
            raise ValueError(f"{part} cannot be read ({reason(error)}): give the path of a picture") from error


def _pieces(answer: http.client.HTTPResponse, size: int) -> Iterator[bytes]:
    """A body, piece by piece, to its announced end."""
    received = 0
    while piece := answer.read1(PIECE):
        received += len(piece)
        if received > size:
            raise TooLarge
        yield piece
    if answer.length:
        raise http.client.IncompleteRead(b"", answer.length)


def _next(address: Address, path: str, answer: http.client.HTTPResponse) -> tuple[Address, str]:
    """Where a redirect leads: the new address of the server, and the path there. Raises ServerError."""
    to = answer.headers.get("Location", "")
    try:
        to = urllib.parse.urljoin(f"{address}{path}", to)
        parts = urllib.parse.urlsplit(to)
        moved, _ = parse_address(f"{parts.scheme}://{parts.netloc}")
    except ValueError as error:
        raise ServerError(
            f"{address} sends on to {plain(to, 100)!r}, which is no address: look at its proxy"
        ) from error
    if moved.host.lower() != address.host.lower() or (address.secure and not moved.secure):
        raise ServerError(
            f"{address} sends on to {plain(to, 100)}, another host, or less safe: give that with --server"
        )
    query = f"?{parts.query}" if parts.query else ""
    whole = urllib.parse.quote(f"{parts.path}{query}", safe="/%:@!$&'()*+,;=~?")
    prefix = whole.removesuffix(path) if path and whole.endswith(path) else ""
    return Address(moved.scheme, moved.host, moved.port, moved.place, prefix), whole.removeprefix(prefix)


def _without_query(path: str) -> str:
    return path.partition("?")[0]
