"""What a server says by websocket. It is worth progress only: that a run has ended is asked for by HTTP."""

from __future__ import annotations

import math
import time
from http.cookies import CookieError
from typing import Any

import websocket

from ...files.errors import BROKEN
from .link import JSON_BYTES, Link, parsed
from .wire import Limits

CONNECT_SECONDS = 10
LONGEST_PAUSE = 30.0  # seconds between two tries to come back
LOST = (*BROKEN, OSError, EOFError, CookieError, websocket.WebSocketException)  # of a library on a stranger's bytes


class Events:
    """The messages for one client. A lost connection comes back by itself, under the same id.

    ``dropped``: whether a connection was ever lost. ``since``: when this one was made; what was said before is not said again.
    """

    def __init__(self, link: Link, client: str) -> None:
        self.link, self.path = link, f"/ws?clientId={client}"
        self.limits = Limits(link.deadline)
        self.socket: websocket.WebSocket | None = None
        self.dropped, self.since, self.pause, self.again = False, math.inf, 0.5, 0.0
        self._connect()

    def listen(self, seconds: float) -> dict[str, Any] | None:
        """The next message of the form ``{"type": ..., "data": {...}}``, or None after this time and for any other."""
        if self.socket is None and time.monotonic() >= self.again:
            self._connect()
        if self.socket is None:
            self.link.deadline.sleep(seconds)
            return None
        self.limits.end = min(self.link.deadline.end, time.monotonic() + seconds)
        try:
            kind, content = self.socket.recv_data()
        except (TimeoutError, websocket.WebSocketTimeoutException):
            return None  # the library keeps what has come of a message
        except LOST:
            self._drop()
            return None
        self.limits.size = JSON_BYTES  # for the next message
        if kind == websocket.ABNF.OPCODE_CLOSE:
            self._drop()
        return _message(content) if kind == websocket.ABNF.OPCODE_TEXT else None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.shutdown()

    def _connect(self) -> None:
        self.limits.stage(seconds=CONNECT_SECONDS)
        try:
            self.socket = self.link.websocket(self.path, self.limits)
            self.since, self.pause = time.monotonic(), 0.5
        except LOST:  # a proxy may know no websockets: the run is followed without
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
            self.again = time.monotonic() + self.pause
        self.limits.stage(size=JSON_BYTES)

    def _drop(self) -> None:
        self.close()
        self.socket, self.dropped, self.since = None, True, math.inf
        self.again = time.monotonic() + self.pause


def _message(content: bytes) -> dict[str, Any] | None:
    try:
        message = parsed(content)
    except ValueError:  # another pack's, or a stranger's
        return None
    told = isinstance(message, dict) and isinstance(message.get("type"), str) and isinstance(message.get("data"), dict)
    return message if told else None
