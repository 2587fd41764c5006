"""Sockets that look at one deadline and one allowance of bytes inside every read and write."""

from __future__ import annotations

import http.client
import math
import socket
import ssl
import time
import urllib.parse
import urllib.request
from typing import Any

from .address import Address, basic

CONNECT_SECONDS = 30
HEAD_BYTES = 1 << 20  # for all that comes before a body, and beside it
PIECE = 1 << 16  # bytes of one read


class DeadlinePassed(ValueError):
    """The caller's own limit, not a fault of the server."""


class TooLarge(Exception):
    """More bytes came than are allowed."""


class Deadline:
    """When all of a run must be over: upload, wait and download. ``seconds``: 0 for never."""

    def __init__(self, seconds: float = 0) -> None:
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"timeout {seconds} must be a number of seconds, or 0 for no limit")
        self.seconds, self.end = seconds, time.monotonic() + seconds if seconds else math.inf

    def check(self) -> None:
        if time.monotonic() >= self.end:
            raise DeadlinePassed(f"the run took longer than {self.seconds:g} s: raise --timeout")

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, min(seconds, self.end - time.monotonic())))
        self.check()


class Limits:
    """What a socket may still do. A stage says how long it may last, how long a silence in it, and how much may come."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.stage()

    def stage(self, *, seconds: float = math.inf, idle: float = CONNECT_SECONDS, size: float = HEAD_BYTES) -> None:
        self.end, self.idle, self.size = min(self.deadline.end, time.monotonic() + seconds), idle, size

    def wait(self) -> float:
        """Seconds that the next read or write may take. Raises TimeoutError where none are left."""
        left = min(self.idle, self.end - time.monotonic())
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def count(self, received: int) -> int:
        self.size -= received
        if self.size < 0:
            raise TooLarge
        return received


class _Limited:
    """The part of a socket that http.client and websocket-client call."""

    limits = Limits(Deadline())

    def recv(self, size: int, flags: int = 0) -> bytes:
        self.settimeout(self.limits.wait())  # type: ignore[attr-defined]
        content = super().recv(min(size, PIECE), flags)  # type: ignore[misc]
        self.limits.count(len(content))
        return content

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self.settimeout(self.limits.wait())  # type: ignore[attr-defined]
        return self.limits.count(super().recv_into(buffer, nbytes, flags))  # type: ignore[misc]

    def send(self, data: Any, flags: int = 0) -> int:
        self.settimeout(self.limits.wait())  # type: ignore[attr-defined]
        return super().send(data, flags)  # type: ignore[misc]

    def sendall(self, data: Any, flags: int = 0) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[self.send(view[:PIECE], flags) :]


class _Plain(_Limited, socket.socket):
    pass


class _Secure(_Limited, ssl.SSLSocket):
    pass


def tls(cacert: str | None, insecure: bool) -> ssl.SSLContext:
    """How servers prove who they are: by the system's certificates, by those of a file, or not at all. Raises ValueError."""
    try:
        context = ssl.create_default_context(cafile=cacert)
    except OSError as error:  # SSLError is one
        said = error.strerror if error.errno and not isinstance(error, ssl.SSLError) else "no certificates in PEM form"
        raise ValueError(
            f"--cacert {cacert} cannot be read ({said}): give a file of certificates in PEM form"
        ) from error
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.sslsocket_class = _Secure
    return context


def connect(
    address: Address, limits: Limits, context: ssl.SSLContext | None, *, tunnel: bool = False
) -> tuple[http.client.HTTPConnection, bool]:
    """A connection to a server, by way of the environment's proxy; and whether requests must name the whole address.

    ``context``: for https, None for http. ``tunnel``: also where a proxy would take plain HTTP, as a websocket needs it.
    """

    def dial(place: tuple[str, int], *_: Any) -> socket.socket:
        return _dialled(place, limits)

    proxy = _proxy_of(address)
    host, port = (proxy.hostname or "", proxy.port or 80) if proxy else (address.host, address.port)
    if context:
        connection = http.client.HTTPSConnection(host, port, context=context)
    else:
        connection = http.client.HTTPConnection(host, port)
    connection._create_connection = dial  # type: ignore[attr-defined]
    if proxy and (tunnel or address.secure):
        connection.set_tunnel(address.host, address.port, proxy_headers(address))
    try:
        connection.connect()
    except BaseException:
        connection.close()
        raise
    reached: Any = connection.sock
    reached.limits = limits
    return connection, bool(proxy) and not (tunnel or address.secure)


def proxy_headers(address: Address) -> dict[str, str]:
    """What the environment's proxy asks for."""
    proxy = _proxy_of(address)
    if not proxy or not proxy.username:
        return {}
    return {"Proxy-Authorization": basic(urllib.parse.unquote(f"{proxy.username}:{proxy.password or ''}"))}


def _proxy_of(address: Address) -> urllib.parse.SplitResult | None:
    proxies = urllib.request.getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    if not proxy or address.local or urllib.request.proxy_bypass(address.host):
        return None
    try:
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        _ = parts.port
    except ValueError as error:  # of urllib, which may show a password
        raise ValueError(
            "the proxy of the environment is no address: write it as http://HOST:PORT, or name the host in no_proxy"
        ) from error
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(
            f"the proxy of the environment is of the kind {parts.scheme!r}: set an http:// one, or name the host in no_proxy"
        )
    return parts


def _dialled(place: tuple[str, int], limits: Limits) -> _Plain:
    """The first of a host's addresses that answers."""
    failed: OSError | None = None
    for *_, found in socket.getaddrinfo(*place, type=socket.SOCK_STREAM):
        try:
            dialled = socket.create_connection((str(found[0]), place[1]), limits.wait())
        except TimeoutError:
            raise
        except OSError as error:
            failed = error
            continue
        plain = _Plain(fileno=dialled.detach())
        plain.limits = limits
        plain.settimeout(limits.wait())
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain
    raise failed or OSError(f"{place[0]} has no address")
